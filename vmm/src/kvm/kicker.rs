//! Stopping and starting all virtual CPUs of a machine.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::sys::Kickable;

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
struct State {
    wanted: Wanted,
    /// Threads that were begun and have not ended.
    threads: Vec<(u8, Kickable)>,
    /// Of these, the ones that wait outside of the guest.
    parked: usize,
}

/// The gate every virtual CPU passes before it enters the guest.
///
/// ```text
///  owner:  set(Pause) ─ kick ─ wait until all are parked
///  CPU:    pass() ─ parks while Pause ─ KVM_RUN ─ EINTR by the kick ─ pass() …
/// ```
#[derive(Debug)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

impl Gate {
    /// A gate that is closed for the time being.
    pub fn new() -> Self {
        Self {
            state: Mutex::new(State { wanted: Wanted::Pause, threads: Vec::new(), parked: 0 }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
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

    /// Waits while CPUs are paused; `on_pause` is called before. False: end the thread.
    pub fn pass(&self, on_pause: impl FnOnce()) -> bool {
        let mut state = self.lock();
        if state.wanted == Wanted::Pause {
            on_pause();
            state.parked += 1;
            self.changed.notify_all();
            while state.wanted == Wanted::Pause {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.parked -= 1;
        }
        state.wanted == Wanted::Run
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
        let outside = |state: &State| match wanted {
            Wanted::Stop => state.threads.is_empty(),
            _ => state.parked == state.threads.len(),
        };
        while !outside(&state) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Default for Gate {
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
        let gate = Arc::new(Gate::new());
        let turns = Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = (0..3u8)
            .map(|id| {
                let (gate, turns) = (gate.clone(), turns.clone());
                std::thread::spawn(move || {
                    gate.enter(id);
                    while gate.pass(|| {}) {
                        turns.fetch_add(1, Ordering::Relaxed);
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
