//! Images and their aliases.

use super::Client;

/// Fingerprint of the one image there is.
fn fingerprint(client: Client, daemon: &berth_tests::Daemon) -> String {
    let list = client.run(daemon, "image list --format json").json();
    let images = list.as_array().unwrap();
    assert_eq!(images.len(), 1, "{list}");
    images[0]["fingerprint"].as_str().unwrap().to_owned()
}

/// An image comes in, is looked at, goes out, comes in again as the same and is deleted.
pub fn images(client: Client) {
    let daemon = client.with_debian();
    let run = |words: &str| client.run(&daemon, words);
    let fingerprint = fingerprint(client, &daemon);
    let line = run("image list --format csv --columns lFp").ok();
    assert_eq!(line, format!("debian,{fingerprint},no\n"));
    let table = run("image list").ok();
    for part in ["| ALIAS ", &fingerprint[..12], "CONTAINER"] {
        assert!(table.contains(part), "{table}");
    }
    let info = run("image info debian").ok();
    assert!(info.contains(&format!("Fingerprint: {fingerprint}")) && info.contains("Architecture: x86_64"), "{info}");
    assert!(run("image show debian").ok().contains("properties:"));
    run(&format!("image set-property {} test yes", &fingerprint[..12])).ok();
    assert_eq!(run("image get-property debian test").ok(), "yes\n");
    run("image unset-property debian test").ok();

    run(&format!("image alias create other/name {fingerprint}")).ok();
    run("image alias rename other/name another").ok();
    let aliases = run("image alias list --format csv").ok();
    assert!(
        aliases.contains("another,") && aliases.contains("debian,") && !aliases.contains("other/name"),
        "{aliases}"
    );
    run("image alias delete another").ok();
    assert!(!run("image alias list --format csv").ok().contains("another"));

    let out = tempfile::tempdir().unwrap();
    run(&format!("image export debian {}/", out.path().display())).ok();
    let mut names: Vec<_> = std::fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    // "meta-..." comes after the fingerprint.
    names.sort();
    let [rootfs, metadata] = [&names[0], &names[1]].map(|path| path.to_str().unwrap());
    assert!(metadata.contains("meta-") && rootfs.ends_with(".squashfs"), "{names:?}");
    let again = client.args(&daemon, ["image", "import", metadata, rootfs]).fails();
    assert!(again.contains("already exists") && again.contains(&fingerprint), "{again}");
    run("image delete debian").ok();
    assert_eq!(run("image list --format csv").ok(), "");
    assert_eq!(run("image alias list --format csv").ok(), "", "aliases go with their image");
    client.args(&daemon, ["image", "import", metadata, rootfs, "--alias", "back", "team=web"]).ok();
    assert_eq!(self::fingerprint(client, &daemon), fingerprint);
    assert_eq!(run("image get-property back team").ok(), "web\n");
    assert!(run("image delete nosuch").fails().contains("nosuch") || client == Client::Lxc);
    daemon.finish();
}
