"""An instance from its creation to its deletion, a profile and a project, by pylxd. LXD_DIR names the server, or
LXD_ENDPOINT with a certificate and a key in LXD_CERTIFICATE and LXD_KEY."""

import os

import pylxd
from pylxd.exceptions import LXDAPIException, NotFound



def connect(**options):
    endpoint = os.environ.get("LXD_ENDPOINT")
    if endpoint is None:
        return pylxd.Client(**options)
    cert = (os.environ["LXD_CERTIFICATE"], os.environ["LXD_KEY"])
    # requests prefers these to what it is told.
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        os.environ.pop(variable, None)
    # The server signed its certificate itself, and not for each address that it may have.
    return pylxd.Client(endpoint=endpoint, cert=cert, verify=False, **options)


client = connect()
assert client.trusted, client.host_info["auth"]
assert client.has_api_extension("projects")
assert [image.aliases[0]["name"] for image in client.images.all()] == ["busybox"]

profile = client.profiles.create("p1", config={"user.a": "1"}, devices={})
profile.config["user.a"] = "2"
profile.save()
assert client.profiles.get("p1").config["user.a"] == "2"

source = {"type": "image", "alias": "busybox"}
config = {"name": "c1", "source": source, "profiles": ["default", "p1"], "config": {"user.b": "3"}}
instance = client.instances.create(config, wait=True)
assert instance.status == "Stopped" and instance.expanded_config["user.a"] == "2"
try:
    client.instances.create(config, wait=True)
    raise SystemExit("a second instance of the same name was made")
except LXDAPIException as error:
    assert "already exists" in str(error), error

instance.start(wait=True)
assert instance.state().status == "Running" and instance.state().pid > 0
code, out, err = instance.execute(["sh", "-c", "echo out; echo err >&2; exit 3"])
assert (code, out, err) == (3, "out\n", "err\n"), (code, out, err)
instance.files.put("/root/file", b"content\n", mode=0o600)
assert instance.files.get("/root/file") == b"content\n"
instance.files.delete("/root/file")
try:
    instance.files.get("/root/file")
    raise SystemExit("a deleted file was read")
except NotFound:
    pass
instance.freeze(wait=True)
assert instance.state().status == "Frozen"
instance.unfreeze(wait=True)

instance.config["user.b"] = "4"
instance.save(wait=True)
instance.sync()
assert instance.config["user.b"] == "4"
assert [i.name for i in client.instances.all()] == ["c1"]
assert [c.name for c in client.containers.all()] == ["c1"]

instance.stop(force=True, wait=True)
instance.rename("c2", wait=True)
client.instances.get("c2").delete(wait=True)
assert client.instances.all() == [] and not client.instances.exists("c2")
profile.delete()

assert [pool.name for pool in client.storage_pools.all()] == ["default"]
assert any(network.managed for network in client.networks.all())
assert client.resources["memory"]["total"] > 0
client.projects.create("web", description="d", config={"features.images": "false", "features.profiles": "false"})
inside = connect(project="web")
inside.instances.create({"name": "c3", "source": source}, wait=True)
# Without recursion pylxd takes the project in a URL for a part of the name.
assert client.instances.all() == [] and [i.name for i in inside.instances.all(recursion=1)] == ["c3"]
inside.instances.get("c3").delete(wait=True)
client.projects.get("web").delete()
print("done")
