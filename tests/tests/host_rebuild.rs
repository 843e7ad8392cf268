//! Instances that get a new content.

use berth_tests::Daemon;

#[test]
fn from_an_image_or_empty() {
    let daemon = Daemon::with_busybox();
    daemon.berth("init busybox c1 --config user.note=mine").ok();
    daemon.berth("file push - c1/root/file").input("old").ok();
    daemon.berth("snapshot c1 before").ok();
    let uuid = daemon.instance("c1")["config"]["volatile.uuid"].clone();
    daemon.berth("rebuild busybox c1").ok();
    daemon.berth("file pull c1/root/file -").fails();
    let rebuilt = daemon.instance("c1");
    assert_eq!((&rebuilt["config"]["user.note"], &rebuilt["config"]["volatile.uuid"]), (&"mine".into(), &uuid));
    daemon.berth("start c1").ok();
    assert!(daemon.berth("rebuild busybox c1").fails().contains("running"));
    daemon.berth("rebuild busybox c1 --force").ok();
    assert_eq!(daemon.berth("list --format csv --columns nsS").ok(), "c1,RUNNING,1\n");
    daemon.berth("stop c1 --force").ok();
    assert!(daemon.berth("rebuild nothing c1").fails().contains("nothing"));
    daemon.berth("rebuild --empty c1").ok();
    let empty = daemon.instance("c1");
    assert!(empty["config"]["image.os"].is_null() && empty["config"]["volatile.base_image"].is_null(), "{empty}");
    daemon.berth("restore c1 before").ok();
    assert_eq!(daemon.berth("file pull c1/root/file -").ok(), "old");
    assert_eq!(daemon.instance("c1")["config"]["image.os"], "busybox");
    assert_eq!(std::fs::read_dir(daemon.volume_dir("containers")).unwrap().count(), 1);
    daemon.finish();
}
