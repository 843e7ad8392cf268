use super::*;

struct Nothing;

impl Engine for Nothing {
    type Order = Infallible;

    fn activate(&mut self, _: Activation, _: &Poller) -> Result<(), ActivateError> {
        Ok(())
    }
    fn event(&mut self, _: u64, _: Events, _: &Poller) -> Result<(), RingError> {
        Ok(())
    }
    fn quiesce(&mut self) -> Result<Vec<QueuePosition>, RingError> {
        Ok(Vec::new())
    }
    fn deactivate(&mut self) {}
}

#[test]
fn a_failing_setup_stops_the_device() {
    let setup: ThreadSetup = Arc::new(|kind| {
        assert_eq!(kind, ThreadKind::Rng);
        Err(io::ErrorKind::PermissionDenied.into())
    });
    let error = Worker::spawn("t", ThreadKind::Rng, Nothing, &setup).err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
}

#[test]
fn an_idle_worker_answers_resets_and_ends() {
    let worker = Worker::spawn("t", ThreadKind::Rng, Nothing, &no_setup()).unwrap();
    worker.reset();
    worker.reset();
}
