//! Stopping and starting all virtual CPUs of a machine.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::sys::{Kickable, install_handler};

/// What the virtual CPUs are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Run the guest.
    Run,
    /// Wait outside of the guest.
    Pause,
    /// End the thread.
    Stop,
}

#[derive(Debug)]
struct State<C> {
    wanted: Wanted,
    /// Threads that were begun and have not ended.
    threads: Vec<(u8, Kickable)>,
    /// What the threads that wait outside of the guest left here.
    parked: BTreeMap<u8, C>,
}

/// The gate every virtual CPU passes before it enters the guest. While it waits there, its `C` is in the hands of the
/// gate's owner.
///
/// ```text
///  owner:  set(Pause) ─ kick ─ wait until all are parked ─ with_parked(…)
///  CPU:    wanted() ─ park() while Pause ─ KVM_RUN ─ EINTR by the kick ─ wanted() …
/// ```
#[derive(Debug)]
pub struct Gate<C> {
    state: Mutex<State<C>>,
    changed: Condvar,
}

impl<C> Gate<C> {
    /// A gate that is closed for the time being.
    pub fn new() -> Self {
        install_handler();
        let state = State { wanted: Wanted::Pause, threads: Vec::new(), parked: BTreeMap::new() };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<C>> {
        // No code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// First thing on the thread of virtual CPU `id`.
    pub fn enter(&self, id: u8) {
        self.lock().threads.push((id, Kickable::current()));
        self.changed.notify_all();
    }

    /// Last thing on that thread.
    pub fn leave(&self, id: u8) {
        self.lock().threads.retain(|(other, _)| *other != id);
        self.changed.notify_all();
    }

    /// What a virtual CPU is to do now.
    pub fn wanted(&self) -> Wanted {
        self.lock().wanted
    }

    /// Leaves `cpu` here while CPUs are paused, and gives it back. `None` never: a parked CPU is taken by its own thread
    /// only.
    pub fn park(&self, id: u8, cpu: C) -> Option<C> {
        let mut state = self.lock();
        state.parked.insert(id, cpu);
        self.changed.notify_all();
        while state.wanted == Wanted::Pause {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.parked.remove(&id)
    }

    /// Works on what the parked CPUs left, in the order of their ids. All of them, after `set(Pause)`.
    pub fn with_parked<R>(&self, work: impl FnOnce(&BTreeMap<u8, C>) -> R) -> R {
        work(&self.lock().parked)
    }

    /// Waits until `count` threads have entered.
    pub fn wait_entered(&self, count: usize) {
        let mut state = self.lock();
        while state.threads.len() < count {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Tells all CPUs what to do; returns when none of them is in the guest (`Pause`, `Stop`), or at once (`Run`).
    pub fn set(&self, wanted: Wanted) {
        let mut state = self.lock();
        state.wanted = wanted;
        self.changed.notify_all();
        if wanted == Wanted::Run {
            return;
        }
        for (id, thread) in &state.threads {
            // Entered and not left, so not joined either: the identifier is valid.
            if let Err(error) = thread.kick() {
                tracing::warn!(cpu = id, %error, "cannot signal the thread of a virtual CPU");
            }
        }
        let outside = |state: &State<C>| match wanted {
            Wanted::Stop => state.threads.is_empty(),
            _ => state.parked.len() == state.threads.len(),
        };
        while !outside(&state) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<C> Default for Gate<C> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn nobody_is_inside_while_paused_and_all_end_on_stop() {
        let gate = Arc::new(Gate::<String>::new());
        let turns = Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = (0..3u8)
            .map(|id| {
                let (gate, turns) = (gate.clone(), turns.clone());
                std::thread::spawn(move || {
                    gate.enter(id);
                    let mut cpu = format!("cpu {id}");
                    loop {
                        match gate.wanted() {
                            Wanted::Run => drop(turns.fetch_add(1, Ordering::Relaxed)),
                            Wanted::Pause => cpu = gate.park(id, cpu).unwrap(),
                            Wanted::Stop => break,
                        }
                    }
                    gate.leave(id);
                })
            })
            .collect();
        gate.wait_entered(3);
        gate.set(Wanted::Run);
        while turns.load(Ordering::Relaxed) < 100 {
            std::thread::yield_now();
        }
        gate.set(Wanted::Pause);
        let paused = turns.load(Ordering::Relaxed);
        let parked = gate.with_parked(|cpus| cpus.values().cloned().collect::<Vec<_>>());
        assert_eq!(parked, ["cpu 0", "cpu 1", "cpu 2"]);
        std::thread::yield_now();
        assert_eq!(turns.load(Ordering::Relaxed), paused);
        gate.set(Wanted::Run);
        while turns.load(Ordering::Relaxed) == paused {
            std::thread::yield_now();
        }
        gate.set(Wanted::Stop);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}
