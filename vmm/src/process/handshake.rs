//! The supervisor's half of the handshake, and the plan of a machine from its specification.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use berth_devices::vsock::VsockConfig;
use berth_supervisor::handshake::{FdIndex, PROTOCOL_VERSION, Proceed, Progress, Start};
use berth_supervisor::transport::Endpoint;
use rustix::event::{PollFd, PollFlags};

use super::ProcessError;
use super::sys::Termination;
use crate::machine::{Boot, Disk, Nic, Origin, Plan, SavedFiles};
use crate::spec::{OriginSpec, VmSpec};

/// Waits for the daemon's first message.
pub fn receive_start(endpoint: &Endpoint) -> Result<(VmSpec, Descriptors), ProcessError> {
    let received = endpoint.recv::<serde_json::Value>().map_err(|error| ProcessError::Handshake(error.to_string()))?;
    let Some((message, fds)) = received else { return Err(ProcessError::CalledOff) };
    // The version is looked at before the rest, whose shape depends on it.
    let theirs = message.get("protocol").and_then(serde_json::Value::as_u64);
    if theirs != Some(u64::from(PROTOCOL_VERSION)) {
        let theirs = theirs.map_or_else(|| "none".to_owned(), |version| version.to_string());
        return Err(ProcessError::Handshake(format!(
            "the daemon speaks protocol version {theirs}, berth-vmm {PROTOCOL_VERSION}"
        )));
    }
    let start: Start<VmSpec> =
        serde_json::from_value(message).map_err(|error| ProcessError::Handshake(error.to_string()))?;
    Ok((start.spec, Descriptors(fds.into_iter().map(Some).collect())))
}

/// Reports.
pub fn send(endpoint: &Endpoint, progress: &Progress) -> Result<(), ProcessError> {
    match endpoint.send(progress, &[]) {
        Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
            Err(ProcessError::CalledOff)
        }
        other => other.map_err(|error| ProcessError::Handshake(error.to_string())),
    }
}

/// Waits for the daemon's leave, or for its end, or for a signal.
pub fn receive_proceed(endpoint: &Endpoint, termination: &Termination) -> Result<(), ProcessError> {
    let mut watched = [PollFd::new(endpoint, PollFlags::IN), PollFd::new(termination, PollFlags::IN)];
    loop {
        match rustix::event::poll(&mut watched, None) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(ProcessError::Handshake(error.to_string())),
            Ok(_) => break,
        }
    }
    if !watched[1].revents().is_empty() {
        return Err(ProcessError::CalledOff);
    }
    match endpoint.recv::<Proceed>() {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(ProcessError::CalledOff),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Err(ProcessError::CalledOff),
        Err(error) => Err(ProcessError::Handshake(error.to_string())),
    }
}

/// The descriptors that came with the specification, each to be taken once.
pub struct Descriptors(Vec<Option<OwnedFd>>);

impl Descriptors {
    fn take(&mut self, index: FdIndex, what: &str) -> Result<OwnedFd, ProcessError> {
        self.0.get_mut(index.0 as usize).and_then(Option::take).ok_or_else(|| {
            ProcessError::Handshake(format!("the descriptor of {what} ({}) is missing or used twice", index.0))
        })
    }
}

/// Resolves the specification's descriptors.
pub fn plan(spec: &VmSpec, mut fds: Descriptors, vsock: Option<VsockConfig>) -> Result<Plan, ProcessError> {
    let origin = origin(&spec.origin, &mut fds)?;
    let disks = spec
        .disks
        .iter()
        .map(|disk| {
            let file = File::from(fds.take(disk.file, &format!("disk {}", disk.id))?);
            Ok(Disk { file, readonly: disk.readonly, id: disk.id.clone(), settings: disk.settings })
        })
        .collect::<Result<_, ProcessError>>()?;
    let nics = spec
        .nics
        .iter()
        .map(|nic| {
            let tap = fds.take(nic.tap, &format!("network device {}", nic.id))?;
            Ok(Nic { id: nic.id.clone(), tap, hwaddr: nic.hwaddr, mtu: nic.mtu, settings: nic.settings })
        })
        .collect::<Result<_, ProcessError>>()?;
    Ok(Plan { vcpus: spec.vcpus, memory: spec.memory, origin, disks, nics, vsock })
}

fn origin(spec: &OriginSpec, fds: &mut Descriptors) -> Result<Origin, ProcessError> {
    let mut file = |index: &FdIndex, what| fds.take(*index, what).map(File::from);
    Ok(match spec {
        OriginSpec::Boot { kernel, initrds, cmdline } => Origin::Boot(Boot {
            kernel: file(kernel, "the kernel")?,
            initrds: initrds.iter().map(|index| file(index, "an initrd")).collect::<Result<_, _>>()?,
            cmdline: cmdline.clone(),
        }),
        OriginSpec::Saved { state, ram, heir: _ } => {
            Origin::Saved(SavedFiles { state: file(state, "the saved state")?, ram: file(ram, "the saved memory")? })
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::{boot, sample};
    use std::os::fd::AsFd;

    fn send_start(protocol: u32) -> Result<(VmSpec, Descriptors), ProcessError> {
        let (daemon, supervisor) = Endpoint::pair().unwrap();
        let (file, other) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        daemon.send(&Start { protocol, spec: sample() }, &[file.as_fd(), other.as_fd()]).unwrap();
        receive_start(&supervisor)
    }

    #[test]
    fn descriptors_find_their_place_once() {
        let (spec, fds) = send_start(PROTOCOL_VERSION).unwrap();
        assert_eq!(spec, sample());
        let plan = plan(&spec, fds, None).unwrap();
        assert_eq!(plan.vcpus, 2);
        assert!(matches!(plan.origin, Origin::Boot(boot) if boot.initrds.len() == 1));
        let (spec, fds) = send_start(PROTOCOL_VERSION).unwrap();
        let twice = VmSpec { origin: boot(vec![FdIndex(0)], ""), ..spec.clone() };
        assert!(matches!(super::plan(&twice, fds, None), Err(ProcessError::Handshake(_))));
    }

    #[test]
    fn another_protocol_is_refused_by_name() {
        let Err(error) = send_start(PROTOCOL_VERSION + 1) else { panic!("taken") };
        assert!(error.to_string().contains("protocol version"), "{error}");
    }

    #[test]
    fn a_daemon_that_goes_away_calls_the_start_off() {
        let (daemon, supervisor) = Endpoint::pair().unwrap();
        drop(daemon);
        assert!(matches!(receive_start(&supervisor), Err(ProcessError::CalledOff)));
        assert!(matches!(send(&supervisor, &Progress::Running), Err(ProcessError::CalledOff)));
    }
}
