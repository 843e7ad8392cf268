//! `/1.0/metrics`: figures of running instances and of the daemon in Prometheus' text format, named as LXD does.

use std::{fmt::Write, sync::Arc};

use axum::{
    Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use berth_guest::protocol::{DiskCounters, Filesystem, GuestState, Interface};
use berth_instances::{Instance, StateReport};
use futures::{StreamExt, stream};
use http::header;

use crate::{
    app::{App, Shared},
    http::{ApiResult, Query},
};

/// Instances that are asked at a time.
const PARALLEL: usize = 16;
/// Media type of the text format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

pub fn routes() -> Router<Shared> {
    Router::new().route("/1.0/metrics", get(show))
}

async fn show(State(app): State<Shared>, query: Query) -> ApiResult {
    let running = app.instances.list(query.get("project")).into_iter().filter(|i| i.is_running());
    let asked = stream::iter(running).map(|instance| {
        let app = app.clone();
        async move { app.instances.activity(&instance.project, &instance.name).await.ok() }
    });
    let reports: Vec<StateReport> = asked.buffered(PARALLEL).filter_map(std::future::ready).collect().await;
    let mut families = Families::default();
    for report in &reports {
        if let Some(guest) = &report.guest {
            instance(&mut families, &report.instance, guest);
        }
    }
    daemon(&mut families, &app).await?;
    Ok(text(families))
}

fn text(families: Families) -> Response {
    ([(header::CONTENT_TYPE, TEXT)], families.render()).into_response()
}

/// What kind of figure a family holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Counter,
    Gauge,
}

/// Families of samples in the order in which they were first named; the format wants each in one piece.
#[derive(Default)]
struct Families(Vec<Family>);

struct Family {
    name: String,
    help: String,
    kind: Type,
    samples: String,
}

impl Families {
    fn add(&mut self, kind: Type, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        let at = self.0.iter().position(|family| family.name == name).unwrap_or_else(|| {
            let family = Family { name: name.to_owned(), help: help.to_owned(), kind, samples: String::new() };
            self.0.push(family);
            self.0.len() - 1
        });
        let family = &mut self.0[at];
        family.samples.push_str(name);
        for (number, (label, value)) in labels.iter().enumerate() {
            let before = if number == 0 { '{' } else { ',' };
            // Writing to a string cannot fail.
            let _ = write!(family.samples, "{before}{label}=\"{}\"", escape(value));
        }
        let _ = writeln!(family.samples, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn render(self) -> String {
        let mut out = String::new();
        for Family { name, help, kind, samples } in self.0 {
            let kind = match kind {
                Type::Counter => "counter",
                Type::Gauge => "gauge",
            };
            let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{samples}");
        }
        out
    }
}

/// A label's value as the format wants it.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Samples of one instance.
struct Samples<'a> {
    families: &'a mut Families,
    name: &'a str,
    project: &'a str,
    kind: &'a str,
}

impl Samples<'_> {
    fn add(&mut self, kind: Type, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        let own = [("name", self.name), ("project", self.project), ("type", self.kind)];
        self.families.add(kind, name, help, &[labels, &own].concat(), value);
    }

    fn counter(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: u64) {
        self.add(Type::Counter, name, help, labels, value as f64);
    }

    fn gauge(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: u64) {
        self.add(Type::Gauge, name, help, labels, value as f64);
    }
}

fn instance(families: &mut Families, instance: &Arc<Instance>, guest: &GuestState) {
    let kind = instance.kind.to_string();
    let mut samples = Samples { families, name: &instance.name, project: &instance.project, kind: &kind };
    for time in &guest.detail.cpu {
        let (cpu, seconds) = (time.cpu.to_string(), time.ns as f64 / 1e9);
        let labels = [("cpu", cpu.as_str()), ("mode", time.mode.as_str())];
        samples.add(
            Type::Counter,
            "lxd_cpu_seconds_total",
            "The total number of CPU time used in seconds.",
            &labels,
            seconds,
        );
    }
    for (device, counters) in &guest.detail.disks {
        disk(&mut samples, device, counters);
    }
    for filesystem in &guest.detail.filesystems {
        space(&mut samples, filesystem);
    }
    for (name, bytes) in &guest.detail.memory {
        let help = format!("The amount of memory in bytes: {name}.");
        samples.gauge(&format!("lxd_memory_{name}_bytes"), &help, &[], *bytes);
    }
    samples.counter("lxd_memory_OOM_kills_total", "The number of out of memory kills.", &[], guest.detail.oom_kills);
    for (device, interface) in &guest.network {
        network(&mut samples, device, interface);
    }
    samples.gauge("lxd_procs_total", "The number of running processes.", &[], guest.processes);
}

fn disk(samples: &mut Samples<'_>, device: &str, counters: &DiskCounters) {
    let labels = [("device", device)];
    samples.counter("lxd_disk_read_bytes_total", "The total number of bytes read.", &labels, counters.read_bytes);
    samples.counter("lxd_disk_reads_completed_total", "The total number of completed reads.", &labels, counters.reads);
    samples.counter(
        "lxd_disk_written_bytes_total",
        "The total number of bytes written.",
        &labels,
        counters.written_bytes,
    );
    samples.counter(
        "lxd_disk_writes_completed_total",
        "The total number of completed writes.",
        &labels,
        counters.writes,
    );
}

fn space(samples: &mut Samples<'_>, filesystem: &Filesystem) {
    let labels = [
        ("device", filesystem.device.as_str()),
        ("fstype", filesystem.kind.as_str()),
        ("mountpoint", filesystem.mountpoint.as_str()),
    ];
    samples.gauge(
        "lxd_filesystem_avail_bytes",
        "The number of available space in bytes.",
        &labels,
        filesystem.available,
    );
    samples.gauge("lxd_filesystem_free_bytes", "The number of free space in bytes.", &labels, filesystem.free);
    samples.gauge("lxd_filesystem_size_bytes", "The size of the filesystem in bytes.", &labels, filesystem.size);
}

fn network(samples: &mut Samples<'_>, device: &str, interface: &Interface) {
    let (labels, counters) = ([("device", device)], &interface.counters);
    for (name, help, value) in [
        ("receive_bytes", "The amount of received bytes on a given interface.", counters.bytes_received),
        (
            "receive_drop",
            "The amount of received dropped bytes on a given interface.",
            counters.packets_dropped_inbound,
        ),
        ("receive_errs", "The amount of received errors on a given interface.", counters.errors_received),
        ("receive_packets", "The amount of received packets on a given interface.", counters.packets_received),
        ("transmit_bytes", "The amount of transmitted bytes on a given interface.", counters.bytes_sent),
        (
            "transmit_drop",
            "The amount of transmitted dropped bytes on a given interface.",
            counters.packets_dropped_outbound,
        ),
        ("transmit_errs", "The amount of transmitted errors on a given interface.", counters.errors_sent),
        ("transmit_packets", "The amount of transmitted packets on a given interface.", counters.packets_sent),
    ] {
        samples.counter(&format!("lxd_network_{name}_total"), help, &labels, value);
    }
}

async fn daemon(families: &mut Families, app: &App) -> ApiResult<()> {
    let operations = app.operations.list(None).iter().filter(|operation| !operation.status().is_final()).count();
    families.add(Type::Gauge, "lxd_operations_total", "The number of running operations.", &[], operations as f64);
    let warnings = app.warnings.list().await?.len();
    families.add(Type::Gauge, "lxd_warnings_total", "The number of warnings.", &[], warnings as f64);
    let uptime = app.began.elapsed().as_secs();
    families.add(Type::Gauge, "lxd_uptime_seconds", "The daemon uptime in seconds.", &[], uptime as f64);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_stay_together() {
        let mut families = Families::default();
        families.add(Type::Counter, "a_total", "A.", &[("x", "1")], 1.5);
        families.add(Type::Gauge, "b", "B.", &[], 2.0);
        families.add(Type::Counter, "a_total", "A.", &[("x", "a\"b\\c\nd"), ("y", "")], 3.0);
        let text = "# HELP a_total A.\n# TYPE a_total counter\na_total{x=\"1\"} 1.5\n\
                    a_total{x=\"a\\\"b\\\\c\\nd\",y=\"\"} 3\n# HELP b B.\n# TYPE b gauge\nb 2\n";
        assert_eq!(families.render(), text);
    }
}
