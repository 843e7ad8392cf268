//! The API over HTTPS with LXD's own client: who gets trusted, what the trusted and others may do.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;

use berth_tests::{Daemon, Run, Terminal, own_address};
use serde_json::Value;

/// Another user's `lxc`, with a configuration and so a certificate of its own.
struct Guest {
    home: tempfile::TempDir,
}

impl Guest {
    fn new() -> Self {
        Self { home: tempfile::tempdir().expect("a directory can be made") }
    }

    fn conf(&self) -> PathBuf {
        self.home.path().join("lxc")
    }

    fn lxc(&self, words: &str) -> Run {
        self.lxc_args(words.split_whitespace())
    }

    fn lxc_args<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Run {
        Run::new("lxc", args).env("LXD_CONF", self.conf()).env("HOME", self.home.path())
    }

    /// Adds the daemon as remote `r` by its password or a token.
    fn add(&self, address: &str, secret: &str) -> Run {
        self.lxc_args(["remote", "add", "r", address, "--accept-certificate", "--password", secret])
    }

    fn fingerprint(&self) -> String {
        let pem = self.conf().join("client.crt");
        let text =
            Run::new("openssl", ["x509", "-in", pem.to_str().unwrap(), "-noout", "-fingerprint", "-sha256"]).ok();
        text.trim().rsplit('=').next().unwrap().replace(':', "").to_lowercase()
    }

    /// A request with its certificate, as curl makes it; the status and the answer.
    fn curl(&self, with_certificate: bool, method: &str, url: &str, body: &str) -> (u16, Value) {
        let (certificate, key) = (self.conf().join("client.crt"), self.conf().join("client.key"));
        let mut args =
            vec!["--silent", "--insecure", "--write-out", "\n%{http_code}", "--request", method, "--data", body];
        if with_certificate {
            args.extend(["--cert", certificate.to_str().unwrap(), "--key", key.to_str().unwrap()]);
        }
        args.push(url);
        let said = Run::new("curl", args).ok();
        let (answer, status) = said.rsplit_once('\n').expect("the status is on a line of its own");
        (status.parse().expect("a number"), serde_json::from_str(answer).unwrap_or_default())
    }
}

/// A daemon that listens on an address of its own.
fn listening(password: Option<&str>) -> (Daemon, String) {
    let daemon = Daemon::with_busybox();
    let address = own_address();
    daemon.lxc(&format!("config set core.https_address {address}")).ok();
    if let Some(password) = password {
        daemon.lxc_args(["config", "set", "core.trust_password", password]).ok();
    }
    (daemon, address)
}

#[test]
fn by_password() {
    let (daemon, address) = listening(Some("open sesame"));
    assert_eq!(daemon.lxc("config get core.https_address").ok(), format!("{address}:8443\n"));
    assert_eq!(daemon.lxc("config get core.trust_password").ok(), "true\n");
    let guest = Guest::new();
    let said = guest.add(&address, "wrong password").fails();
    assert!(said.contains("not authorized"), "{said}");
    guest.lxc("remote remove r").any();
    guest.add(&address, "open sesame").ok();
    guest.lxc("launch r:busybox r:c1").ok();
    assert_eq!(guest.lxc("list r: --format csv --columns ns").ok(), "c1,RUNNING\n");
    // Programs go over websockets.
    assert_eq!(guest.lxc_args(["exec", "r:c1", "--", "sh", "-c", "exit 7"]).any().status, 7);
    assert_eq!(guest.lxc("exec r:c1 -- cat").input("through").ok(), "through");
    let terminal = Terminal::start(guest.lxc("exec r:c1 --force-interactive -- sh -c tty"));
    let (status, said) = terminal.end();
    assert!(status == 0 && said.contains("/dev/pts/"), "{said}");
    let content = "x".repeat(300_000);
    guest.lxc("file push - r:c1/root/file").input(content.clone()).ok();
    assert_eq!(guest.lxc("file pull r:c1/root/file -").ok(), content);
    // It is known by its fingerprint, and the password is nowhere.
    let fingerprint = guest.fingerprint();
    let list = daemon.get("/1.0/certificates?recursion=1");
    assert_eq!((list.as_array().unwrap().len(), &list[0]["fingerprint"]), (1, &fingerprint.clone().into()));
    let shown = daemon.lxc("config show").ok();
    assert!(shown.contains("core.trust_password: true") && !shown.contains("sesame"), "{shown}");
    assert!(!daemon.log().contains("sesame"));
    // What clients send back keeps the password, and without it nobody gets in.
    daemon.lxc("config set user.a=1").ok();
    let other = Guest::new();
    other.add(&address, "open sesame").ok();
    daemon.lxc("config unset core.trust_password").ok();
    let third = Guest::new();
    third.add(&address, "open sesame").fails();
    // An open connection is cut off with its next request.
    let url = format!("https://{address}:8443/1.0/instances");
    assert_eq!(guest.curl(true, "GET", &url, "").0, 200);
    let key = |name: &str| guest.conf().join(name).to_str().unwrap().to_owned();
    let args = [
        "s_client",
        "-quiet",
        "-crlf",
        "-connect",
        &format!("{address}:8443"),
        "-cert",
        &key("client.crt"),
        "-key",
        &key("client.key"),
    ];
    let mut connection = Terminal::start(Run::new("openssl", args));
    let ask = "GET /1.0/instances HTTP/1.1\nHost: x\n\n";
    connection.send(ask);
    connection.expect("HTTP/1.1 200 OK");
    connection.expect("/1.0/instances/c1");
    daemon.lxc(&format!("config trust remove {}", &fingerprint[..12])).ok();
    connection.send(ask);
    connection.expect("HTTP/1.1 403");
    drop(connection);
    assert_eq!(guest.curl(true, "GET", &url, "").0, 403);
    assert!(guest.lxc("list r:").fails().contains("not authorized"));
    other.lxc("delete --force r:c1").ok();
    daemon.finish();
}

#[test]
fn by_token_until_it_is_used_and_through_a_crash() {
    let (mut daemon, address) = listening(None);
    let guest = Guest::new();
    let said = daemon.lxc("config trust add --name friend").ok();
    let token = said.lines().last().expect("the token comes last").trim().to_owned();
    let tokens = daemon.lxc("config trust list-tokens --format csv").ok();
    assert!(tokens.contains("friend") && tokens.contains(&token), "{tokens}");
    guest.lxc_args(["remote", "add", "r", &token]).ok();
    assert_eq!(guest.lxc("list r: --format csv").ok(), "");
    assert_eq!(daemon.lxc("config trust list-tokens --format csv").ok(), "");
    let other = Guest::new();
    other.lxc_args(["remote", "add", "r", &token]).fails();
    // One that is revoked.
    let said = daemon.lxc("config trust add --name foe").ok();
    let token = said.lines().last().expect("the token comes last").trim().to_owned();
    daemon.lxc("config trust revoke-token foe").ok();
    other.lxc_args(["remote", "add", "r", &token]).fails();
    let list = daemon.get("/1.0/certificates?recursion=1");
    assert_eq!(
        (list.as_array().unwrap().len(), &list[0]["name"], &list[0]["type"]),
        (1, &"friend".into(), &"client".into())
    );
    // All of it is there after a crash.
    let certificate = daemon.get("/1.0")["environment"]["certificate_fingerprint"].clone();
    daemon.kill();
    daemon.spawn();
    assert_eq!(daemon.get("/1.0")["environment"]["certificate_fingerprint"], certificate);
    guest.lxc("init r:busybox r:c1").ok();
    // Another address, live.
    let second = own_address();
    daemon.lxc(&format!("config set core.https_address {second}:9443")).ok();
    let reached = |address: &str| {
        Run::new("curl", ["--silent", "--insecure", &format!("https://{address}/1.0")]).any().status == 0
    };
    assert!(reached(&format!("{second}:9443")) && !reached(&format!("{address}:8443")));
    let foreign = daemon.lxc("config set core.https_address 192.0.2.7").fails();
    assert!(foreign.contains("192.0.2.7:8443"), "{foreign}");
    assert!(reached(&format!("{second}:9443")), "what was refused changes nothing");
    assert_eq!(daemon.get("/1.0")["environment"]["addresses"][0], format!("{second}:9443"));
    daemon.lxc("config unset core.https_address").ok();
    assert!(!reached(&format!("{second}:9443")));
    let nowhere = daemon.lxc("config trust add --name late").fails();
    assert!(nowhere.contains("core.https_address"), "{nowhere}");
    // One that is not used does not hold the daemon up.
    daemon.berth(&format!("config set core.https_address={address}")).ok();
    let token = daemon.berth("config trust add --name late").ok();
    assert!(daemon.berth("config trust list-tokens --format csv").ok().contains(token.trim()));
    daemon.stop();
    assert!(!daemon.log().contains("operations did not end"), "{}", daemon.log());
    daemon.spawn();
    daemon.finish();
}

#[test]
fn a_restricted_certificate_stays_in_its_projects() {
    let (daemon, address) = listening(None);
    daemon.lxc("project create p -c features.images=false -c features.profiles=false").ok();
    daemon.lxc("project create own").ok();
    daemon.lxc("init busybox secret").ok();
    let guest = Guest::new();
    let said = daemon.lxc("config trust add --name guest --restricted --projects p,own").ok();
    guest.lxc_args(["remote", "add", "r", said.lines().last().unwrap().trim(), "--project", "p"]).ok();
    guest.lxc("launch r:busybox r:mine").ok();
    assert_eq!(guest.lxc("exec r:mine -- echo there").ok(), "there\n");
    assert_eq!(guest.lxc("list r: --format csv --columns n").ok(), "mine\n");
    let names: Vec<Value> = guest.lxc("query r:/1.0/projects").json().as_array().unwrap().clone();
    assert_eq!(names, ["/1.0/projects/own", "/1.0/projects/p"]);
    assert_eq!(guest.lxc("query r:/1.0").json()["config"], serde_json::json!({}));
    let url = |path: &str| format!("https://{address}:8443{path}");
    let refused = |method: &str, path: &str, body: &str| {
        let (status, answer) = guest.curl(true, method, &url(path), body);
        assert_eq!(status, 403, "{method} {path} {body}: {answer}");
    };
    for path in [
        "/1.0/instances",
        "/1.0/instances/secret",
        "/1.0/instances?project=default",
        "/1.0/instances?all-projects=true",
        "/1.0/instances?project=p&project=default",
        "/1.0/containers/secret/state",
        "/1.0/events",
        "/1.0/operations",
        "/1.0/certificates",
        "/1.0/projects/default",
        "/1.0/resources",
        "/1.0/warnings",
        "/1.0/metrics",
        "/1.0/nothing",
    ] {
        refused("GET", path, "");
    }
    refused("PUT", "/1.0?project=p", r#"{"config":{}}"#);
    refused("PUT", "/internal/shutdown", "");
    refused("POST", "/1.0/projects", r#"{"name":"q"}"#);
    refused("POST", "/1.0/certificates", r#"{"token":true,"name":"x"}"#);
    refused(
        "POST",
        "/1.0/instances?project=p",
        r#"{"name":"c","source":{"type":"copy","source":"secret","project":"default"}}"#,
    );
    refused("POST", "/1.0/instances/mine?project=p", r#"{"name":"mine","migration":true,"project":"default"}"#);
    refused("POST", "/1.0/images?project=p", r#"{"source":{"type":"container","name":"secret","project":"default"}}"#);
    refused("POST", "/1.0/images?project=own", r#"{"source":{"type":"build","distribution":"debian/12"}}"#);
    refused("DELETE", "/1.0/instances/secret", "");
    // Profiles and images are those of the default project, which it may use and not change.
    refused("PUT", "/1.0/profiles/default?project=p", r#"{"config":{"security.privileged":"true"}}"#);
    assert_eq!(
        guest.curl(true, "GET", &url("/1.0/profiles/default?project=p"), "").1["metadata"]["used_by"],
        serde_json::json!(["/1.0/instances/mine?project=p"])
    );
    // It goes with its project to another name, and not to a later one of the old name.
    let fingerprint = guest.fingerprint();
    let projects = || daemon.get(&format!("/1.0/certificates/{fingerprint}"))["projects"].clone();
    guest.lxc("delete --force r:mine").ok();
    daemon.lxc("project rename p q").ok();
    daemon.lxc("project create p").ok();
    assert_eq!(projects(), serde_json::json!(["own", "q"]));
    refused("GET", "/1.0/instances?project=p", "");
    assert_eq!(guest.curl(true, "GET", &url("/1.0/instances?project=q"), "").0, 200);
    daemon.lxc("project delete q").ok();
    assert_eq!(projects(), serde_json::json!(["own"]));
    // Its limits can be lifted, live.
    let edited = daemon
        .lxc(&format!("config trust show {fingerprint}"))
        .ok()
        .replace("restricted: true", "restricted: false")
        .replace("- own", "");
    daemon.lxc(&format!("config trust edit {fingerprint}")).input(edited).ok();
    assert_eq!(guest.curl(true, "GET", &url("/1.0/instances"), "").0, 200);
    refused("PUT", "/internal/shutdown", "");
    daemon.finish();
}

#[test]
fn strangers_see_nothing() {
    let (daemon, address) = listening(Some("open sesame"));
    daemon.lxc("init busybox c1").ok();
    let guest = Guest::new();
    // Makes its certificate, which nobody trusts.
    guest.add(&address, "wrong password").fails();
    let url = |path: &str| format!("https://{address}:8443{path}");
    for with_certificate in [true, false] {
        let ask = |method: &str, path: &str, body: &str| guest.curl(with_certificate, method, &url(path), body);
        let (status, server) = ask("GET", "/1.0", "");
        assert_eq!((status, &server["metadata"]["auth"]), (200, &"untrusted".into()));
        assert!(
            server["metadata"].get("environment").is_none() && server["metadata"].get("config").is_none(),
            "{server}"
        );
        for (method, path) in [
            ("GET", "/1.0/instances"),
            ("GET", "/1.0/instances/c1"),
            ("GET", "/1.0/events"),
            ("GET", "/1.0/metrics"),
            ("GET", "/1.0/operations"),
            ("GET", "/1.0/certificates"),
            ("PUT", "/1.0"),
            ("POST", "/1.0/instances"),
            ("DELETE", "/1.0/instances/c1"),
            ("PUT", "/internal/shutdown"),
            ("GET", "/internal/ready"),
            ("GET", "/2.0"),
        ] {
            let (status, answer) = ask(method, path, "{}");
            assert_eq!((status, &answer["error"]), (403, &"not authorized".into()), "{method} {path}: {answer}");
        }
        assert_eq!(ask("POST", "/1.0/certificates", r#"{"type":"client"}"#).0, 403);
        assert_eq!(ask("POST", "/1.0/certificates", r#"{"token":true,"name":"x","password":"open sesame"}"#).0, 403);
        assert_eq!(ask("GET", "/1.0/images", "").1["metadata"], serde_json::json!([]));
        assert_eq!(ask("GET", "/1.0/images/aliases", "").1["metadata"], serde_json::json!([]));
        assert_eq!(ask("GET", "/1.0/images/aliases/busybox", "").0, 404);
    }
    let fingerprint = daemon.get("/1.0/images?recursion=1")[0]["fingerprint"].as_str().unwrap().to_owned();
    let image = url(&format!("/1.0/images/{fingerprint}"));
    assert_eq!(
        (guest.curl(false, "GET", &image, "").0, guest.curl(false, "GET", &(image.clone() + "/export"), "").0),
        (404, 404)
    );
    daemon.http("PATCH", &format!("/1.0/images/{fingerprint}"), &[], br#"{"public":true}"#);
    assert_eq!(guest.curl(false, "GET", &image, "").0, 200);
    assert_eq!(guest.curl(false, "GET", &url("/1.0/images/aliases/busybox"), "").0, 200);
    // Figures only for who has a certificate for them, unless the configuration lets everybody.
    let metrics = Guest::new();
    metrics.add(&address, "wrong password").fails();
    let certificate = metrics.conf().join("client.crt").to_str().unwrap().to_owned();
    daemon.lxc_args(["config", "trust", "add", &certificate, "--type", "metrics"]).ok();
    assert_eq!(metrics.curl(true, "GET", &url("/1.0/metrics"), "").0, 200);
    assert_eq!(metrics.curl(true, "GET", &url("/1.0/instances"), "").0, 403);
    let other = own_address();
    daemon.lxc(&format!("config set core.metrics_address {other}:9100 core.metrics_authentication false")).any();
    daemon.lxc(&format!("config set core.metrics_address={other}:9100 core.metrics_authentication=false")).ok();
    assert_eq!(guest.curl(false, "GET", &format!("https://{other}:9100/1.0/metrics"), "").0, 200);
    assert_eq!(guest.curl(false, "GET", &format!("https://{other}:9100/1.0"), "").0, 404);
    // Connections that say nothing, and one that does not speak TLS, are in nobody's way.
    let connect = || TcpStream::connect((&*address, 8443)).expect("the daemon listens");
    let silent: Vec<_> = (0..200).map(|_| connect()).collect();
    let mut plain = connect();
    plain.write_all(b"GET /1.0 HTTP/1.1\r\nHost: x\r\n\r\n").expect("the daemon reads");
    let mut answer = Vec::new();
    // Closed with or without an alert.
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    assert_eq!(guest.curl(false, "GET", &url("/1.0"), "").0, 200);
    drop(silent);
    // Guessing is made slow.
    let guess = || guest.curl(true, "POST", &url("/1.0/certificates"), r#"{"password":"guessed wrong"}"#).0;
    let answers: Vec<u16> = (0..12).map(|_| guess()).collect();
    assert!(answers.contains(&403) && answers.last() == Some(&429), "{answers:?}");
    daemon.finish();
}
