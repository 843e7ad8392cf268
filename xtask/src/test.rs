//! `cargo xtask test`: everything a change must pass.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::{
    build, image, lab, licences,
    packages::{self, Purpose},
    probe::{self, Kvm},
    python,
};

/// Longest run of all tests of virtual machines in the lab.
const LAB_TIME: Duration = Duration::from_secs(3600);
/// Crate of the end-to-end tests. Those of virtual machines are in files `vm_*.rs`, those of this machine in
/// `host_*.rs`.
const END_TO_END: &str = "berth-tests";

/// Which tests to run.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Only end-to-end tests whose name contains this; no checks and no unit tests.
    #[arg(long, value_name = "NAME")]
    pub only: Option<String>,
    /// Leave the tests of virtual machines out, and say so.
    #[arg(long)]
    pub no_vm: bool,
}

/// Runs the tests.
pub fn run(options: &Options) -> Result<()> {
    packages::ensure(&[Purpose::Build, Purpose::Run, Purpose::Test])?;
    if options.only.is_none() {
        step("format");
        build::execute(build::cargo().args(["fmt", "--all", "--check"]))?;
        step("licences");
        licences::check()?;
        step("lints");
        build::execute(build::cargo().args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ]))?;
        step("unit tests");
        let unit = ["test", "--workspace", "--exclude", END_TO_END, "--quiet"];
        build::execute(build::cargo().args(unit))?;
    }
    step("programs");
    let programs = build::run(&build::Options { release: false })?;
    let image = image::prepare(&programs)?;
    let python = python::prepare()?;
    let tests = end_to_end_tests()?;
    let (machines, host): (Vec<_>, Vec<_>) = tests.into_iter().partition(|test| test.name.starts_with("vm_"));
    let mut failed = Vec::new();
    step("end-to-end tests on this machine");
    for test in &host {
        eprintln!("-- {}", test.name);
        if !direct(test, options.only.as_deref(), &[(IMAGE, &image), (PYTHON, &python)])? {
            failed.push(test.name.clone());
        }
    }
    if options.no_vm {
        eprintln!("== tests of virtual machines were left out (--no-vm)");
    } else if !machines.is_empty() {
        step("tests of virtual machines");
        failed.extend(machine_tests(&machines, &programs, options.only.as_deref(), &image)?);
    }
    if !failed.is_empty() {
        bail!("these end-to-end tests failed: {}", failed.join(", "));
    }
    eprintln!("== all tests passed");
    Ok(())
}

fn step(name: &str) {
    eprintln!("== {name}");
}

/// A test program.
#[derive(Debug)]
struct Test {
    name: String,
    program: PathBuf,
}

/// Builds the end-to-end tests.
fn end_to_end_tests() -> Result<Vec<Test>> {
    let output = build::cargo()
        .args(["test", "--package", END_TO_END, "--no-run", "--message-format=json", "--quiet"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the end-to-end tests do not build");
    }
    let mut tests: Vec<Test> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|message| {
            let is_test = message["profile"]["test"] == true && message["target"]["kind"][0] == "test";
            let name = message["target"]["name"].as_str()?.to_owned();
            let program = message["executable"].as_str()?.into();
            is_test.then_some(Test { name, program })
        })
        .collect();
    tests.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tests)
}

/// Names the directory of the image to the tests.
const IMAGE: &str = "BERTH_TEST_IMAGE";
/// Names the interpreter that has Python clients to the tests on this machine.
const PYTHON: &str = "BERTH_TEST_PYTHON";

/// Runs a test program on this machine; tells whether it passed.
fn direct(test: &Test, only: Option<&str>, places: &[(&str, &Path)]) -> Result<bool> {
    let mut command = Command::new(&test.program);
    let status = command.args(only).envs(places.iter().copied()).status();
    Ok(status.with_context(|| format!("cannot run {}", test.program.display()))?.success())
}

/// Runs the tests of virtual machines where those can run; gives the names of the failed ones.
fn machine_tests(tests: &[Test], programs: &Path, only: Option<&str>, image: &Path) -> Result<Vec<String>> {
    let mut failed = Vec::new();
    let reason = match probe::ask(programs)? {
        Kvm::Unusable(reason) => reason,
        Kvm::Usable => {
            eprintln!("-- direct: this machine's /dev/kvm runs guests");
            for test in tests {
                eprintln!("-- {}", test.name);
                if !direct(test, only, &[(IMAGE, image)])? {
                    failed.push(test.name.clone());
                }
            }
            return Ok(failed);
        }
    };
    eprintln!("-- in the lab, because this machine cannot run guests itself: {reason}");
    let labs = std::thread::available_parallelism().map_or(1, usize::from).min(lab::SLOTS).min(tests.len());
    let outcomes: Vec<Result<i32>> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..labs)
            .map(|lab| {
                let share: Vec<&Test> = tests
                    .iter()
                    .enumerate()
                    .filter(|(turn, _)| share(*turn, labs) == lab)
                    .map(|(_, test)| test)
                    .collect();
                let command = ["sh", "-c", &lab_script(&share, only, image)].map(str::to_owned).to_vec();
                let options = lab::Options { label: Some(lab + 1), ..lab::Options::command(command, LAB_TIME) };
                scope.spawn(move || lab::run(&options))
            })
            .collect();
        running.into_iter().map(|lab| lab.join().unwrap_or_else(|_| bail!("a lab's thread panicked"))).collect()
    });
    for (lab, outcome) in outcomes.into_iter().enumerate() {
        if outcome? != 0 {
            failed.push(format!("one or more of vm_* in lab {} (see above)", lab + 1));
        }
    }
    Ok(failed)
}

/// The lab of the test whose turn it is: dealt out there and back (0, 1, 1, 0, …), which with today's names puts the two
/// longest into different labs, and with each a short one.
fn share(turn: usize, labs: usize) -> usize {
    let (round, place) = (turn / labs, turn % labs);
    if round.is_multiple_of(2) { place } else { labs - 1 - place }
}

/// One machine for many: its boot costs more than many a test.
fn lab_script(tests: &[&Test], only: Option<&str>, image: &Path) -> String {
    let mut script = format!("export {IMAGE}={}\nfailed=0\n", lab::quote(&image.to_string_lossy()));
    let arguments = only.map(|only| format!(" {}", lab::quote(only))).unwrap_or_default();
    for test in tests {
        let (name, program) = (lab::quote(&test.name), lab::quote(&test.program.to_string_lossy()));
        script += &format!("echo '-- '{name} >&2\n");
        script += &format!("{program}{arguments} || {{ echo '-- failed: '{name} >&2; failed=1; }}\n");
    }
    script + "exit $failed\n"
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn tests_are_dealt_out_there_and_back() {
        let dealt = |labs| (0..6).map(|turn| share(turn, labs)).collect::<Vec<_>>();
        assert_eq!(dealt(1), [0; 6]);
        assert_eq!(dealt(2), [0, 1, 1, 0, 0, 1]);
        assert_eq!(dealt(3), [0, 1, 2, 2, 1, 0]);
    }
}
