//! A daemon that is killed at the end of every step of its first start, which takes up what there is then.
//!
//! In a file of its own, so that no other daemon runs meanwhile: one that finds the link of its default network taken takes
//! another, by other steps.

use berth_tests::Daemon;

#[test]
fn the_first_start() {
    let mut daemon = Daemon::start();
    for count in 1.. {
        // As if it had never been there.
        daemon.remove_networks();
        daemon.stop();
        for entry in std::fs::read_dir(daemon.dir()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { std::fs::remove_dir_all(path).unwrap() } else { std::fs::remove_file(path).unwrap() }
        }
        daemon.die_after(count);
        let Some(step) = daemon.spawn_or_die() else { break };
        eprintln!("first start, step {count}: {step}");
        assert_eq!(daemon.spawn_or_die(), None);
        daemon.check_whole();
        let networks = daemon.networks();
        let devices = &daemon.get("/1.0/profiles/default")["devices"];
        assert_eq!(networks.len(), 1, "step {count}: {step}");
        assert_eq!(
            (&devices["eth0"]["network"], &devices["root"]["pool"]),
            (&networks[0].as_str().into(), &"default".into())
        );
        assert_eq!(daemon.get("/1.0/storage-pools"), serde_json::json!(["/1.0/storage-pools/default"]));
    }
    daemon.finish();
}
