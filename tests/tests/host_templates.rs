//! Files that images want written into their containers, by LXD's own client.

use berth_tests::Daemon;

const METADATA: &str = "architecture: x86_64
creation_date: 1700000000
properties:
  os: busybox
templates:
  /etc/hostname:
    when: [create, copy, rename]
    template: hostname.tpl
  /etc/made/here/greeting:
    when: [create, copy]
    template: greeting.tpl
    properties: {default: nobody}
  /etc/passwd:
    when: [create, copy]
    create_only: true
    template: greeting.tpl
  /etc/last:
    when: [start]
    template: last.tpl
";

const GREETING: &str = "{% if instance.type == \"container\" %}hello{% endif %} \
                        {{ config_get(\"user.greeting\", properties.default) }}\n";

fn with_templates() -> Daemon {
    let daemon = Daemon::with_busybox();
    daemon.lxc("init busybox base").ok();
    daemon.lxc("config template edit base hostname.tpl").input("{{ container.name }}\n").ok();
    daemon.lxc("config template edit base greeting.tpl").input(GREETING).ok();
    daemon.lxc("config template edit base last.tpl").input("{{ trigger }} {{ path }}\n").ok();
    daemon.lxc("config metadata edit base").input(METADATA).ok();
    daemon.lxc("publish base --alias templated").ok();
    daemon
}

fn sh(daemon: &Daemon, name: &str, script: &str) -> String {
    daemon.lxc_args(["exec", name, "--", "sh", "-c", script]).ok()
}

#[test]
fn are_written_when_the_image_says() {
    let daemon = with_templates();
    daemon.lxc("init templated c1 --config user.greeting=world").ok();
    assert_eq!(daemon.instance("c1")["config"]["volatile.apply_template"], "create");
    daemon.lxc("start c1").ok();
    assert!(daemon.instance("c1")["config"]["volatile.apply_template"].is_null());
    let files = "cat /etc/hostname /etc/made/here/greeting /etc/last";
    assert_eq!(sh(&daemon, "c1", files), "c1\nhello world\nstart /etc/last\n");
    let listed = sh(&daemon, "c1", "ls -ln /etc/hostname; ls -lnd /etc/made");
    let lines: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((lines[0][0], lines[0][2], lines[0][3]), ("-rw-r--r--", "0", "0"), "{listed}");
    assert_eq!((lines[1][0], lines[1][2], lines[1][3]), ("drwxr-xr-x", "0", "0"), "{listed}");
    assert!(sh(&daemon, "c1", "cat /etc/passwd").starts_with("root:"), "only if it were not there");

    // Another start is no other creation.
    sh(&daemon, "c1", "echo mine > /etc/hostname; rm /etc/last; chmod 600 /etc/hostname; ln -s /etc/x /etc/last");
    daemon.lxc("restart c1 --force").ok();
    assert_eq!(sh(&daemon, "c1", "cat /etc/hostname /etc/x"), "mine\nstart /etc/last\n");
    daemon.lxc("stop c1 --force").ok();
    daemon.lxc("rename c1 c2").ok();
    daemon.lxc("start c2").ok();
    assert_eq!(sh(&daemon, "c2", "cat /etc/hostname; ls -l /etc/hostname | head -c 10"), "c2\n-rw-------");

    // A copy, and one that was a backup before its first start.
    daemon.lxc("copy c2 c3 --config user.greeting=copy").ok();
    let file = daemon.dir().join("c3.tar");
    daemon.berth_args(["export", "c3", file.to_str().unwrap(), "--compression", "none"]).ok();
    daemon.lxc("delete c3").ok();
    daemon.berth_args(["import", file.to_str().unwrap(), "c4"]).ok();
    daemon.lxc("start c4").ok();
    assert_eq!(sh(&daemon, "c4", "cat /etc/hostname /etc/made/here/greeting"), "c4\nhello copy\n");

    // What a snapshot did not know yet, it does not know again.
    daemon.lxc("init templated c5").ok();
    daemon.lxc("snapshot c5 fresh").ok();
    daemon.lxc("start c5").ok();
    sh(&daemon, "c5", "rm /etc/hostname");
    daemon.lxc("restore c5 fresh").ok();
    assert_eq!(sh(&daemon, "c5", "cat /etc/hostname"), "c5\n");
    sh(&daemon, "c5", "rm /etc/hostname");
    daemon.berth("rebuild templated c5 --force").ok();
    assert_eq!(sh(&daemon, "c5", "cat /etc/hostname"), "c5\n");
    daemon.finish();
}

#[test]
fn are_shown_and_changed() {
    let daemon = with_templates();
    daemon.lxc("launch templated c1").ok();
    assert_eq!(daemon.lxc("config template show c1 hostname.tpl").ok(), "{{ container.name }}\n");
    daemon.lxc("config template create c1 new.tpl").ok();
    let names = daemon.lxc("config template list c1 --format csv").ok();
    assert_eq!(names, "greeting.tpl\nhostname.tpl\nlast.tpl\nnew.tpl\n");
    daemon.lxc("config template delete c1 new.tpl").ok();
    assert!(daemon.lxc("config template show c1 new.tpl").fails().contains("new.tpl"));
    assert!(daemon.lxc("config template delete c1 new.tpl").fails().contains("new.tpl"));
    let shown = daemon.lxc("config metadata show c1").ok();
    assert!(shown.contains("/etc/made/here/greeting:") && shown.contains("default: nobody"), "{shown}");
    daemon.lxc("config metadata edit c1").input(shown.replace("default: nobody", "default: somebody")).ok();
    assert!(daemon.lxc("config metadata show c1").ok().contains("default: somebody"));
    let patch = r#"{"properties":{"note":"patched"}}"#;
    daemon.lxc_args(["query", "-X", "PATCH", "-d", patch, "/1.0/instances/c1/metadata"]).ok();
    let metadata = daemon.get("/1.0/instances/c1/metadata");
    assert_eq!(
        (&metadata["properties"]["os"], &metadata["properties"]["note"]),
        (&"busybox".into(), &"patched".into())
    );
    assert_eq!(metadata["templates"]["/etc/last"]["when"], serde_json::json!(["start"]));
    daemon.finish();
}

#[test]
fn cannot_do_more_than_a_program_inside() {
    let daemon = with_templates();
    daemon.lxc("launch templated c1").ok();
    let outside = daemon.dir().join("outside");
    std::fs::write(&outside, "untouched").unwrap();
    let dots = "../".repeat(20);
    // Neither a link to a file nor one on the way leads out.
    let up = outside.to_str().unwrap().trim_start_matches('/');
    sh(&daemon, "c1", &format!("rm /etc/last; ln -s /{dots}{up} /etc/last"));
    daemon.lxc("stop c1 --force").ok();
    let failed = daemon.lxc("start c1").fails();
    assert!(failed.contains("last.tpl") && failed.contains("/etc/last"), "{failed}");
    let away = METADATA.replace("/etc/last", "/etc/away/outside");
    daemon.lxc("config metadata edit c1").input(away.as_str()).ok();
    daemon.lxc_args(["file", "delete", "c1/etc/last"]).ok();
    daemon.lxc("start c1").ok();
    let directory = daemon.dir().to_str().unwrap();
    sh(&daemon, "c1", &format!("rm -r /etc/away; mkdir -p {directory}; ln -s /{dots}{directory} /etc/away"));
    daemon.lxc("restart c1 --force").ok();
    assert_eq!(sh(&daemon, "c1", &format!("cat {directory}/outside")), "start /etc/away/outside\n");
    assert_eq!(std::fs::read_to_string(&outside).unwrap(), "untouched");
    daemon.lxc("stop c1 --force").ok();

    // What is wrong is told, and can be mended.
    for (template, reason) in [
        ("{% if", "syntax"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "fuel"),
        ("{% for a in range(99) %}{{ 'x' * 90000 }}{% endfor %}", "bytes"),
    ] {
        daemon.lxc("config template edit c1 last.tpl").input(template).ok();
        let failed = daemon.lxc("start c1").fails();
        assert!(failed.contains("last.tpl") && failed.contains(reason), "{failed}");
        assert_eq!(daemon.instance("c1")["status"], "Stopped");
    }
    daemon.lxc("config template delete c1 last.tpl").ok();
    assert!(daemon.lxc("start c1").fails().contains("last.tpl"));
    for target in ["/etc/../../x", "etc/x"] {
        let bad = METADATA.replace("/etc/last", target);
        assert!(daemon.lxc("config metadata edit c1").input(bad.as_str()).fails().contains("template target"));
    }
    for name in ["..%2Fsecret", "..", ".hidden", ""] {
        let path = format!("/1.0/instances/c1/metadata/templates?path={name}");
        daemon.lxc_args(["query", "-X", "POST", "-d", "x", &path]).fails();
        daemon.lxc_args(["query", "-X", "DELETE", &path]).fails();
    }
    daemon.lxc("config metadata edit c1").input("architecture: x86_64\n").ok();
    daemon.lxc("start c1").ok();
    daemon.finish();
}
