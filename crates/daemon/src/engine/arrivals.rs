//! Events on their way into the main loop, with the time at which each came to be known.

use std::time::Instant;

use tokio::sync::mpsc::{self, error::TryRecvError};

/// The end into which events are put. Each carries the time at which that began, so that what waits, waits visibly.
#[derive(Debug)]
pub struct Inputs<I>(mpsc::Sender<(Instant, I)>);

/// The other end.
#[derive(Debug)]
pub struct Arrivals<I>(mpsc::Receiver<(Instant, I)>);

/// Nobody takes events any more, or (without waiting) there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the main loop takes no event")]
pub struct NotTaken;

/// A queue with room for so many events; when it is full, who sends waits.
#[must_use]
pub fn channel<I>(room: usize) -> (Inputs<I>, Arrivals<I>) {
    let (sender, receiver) = mpsc::channel(room);
    (Inputs(sender), Arrivals(receiver))
}

impl<I> Clone for Inputs<I> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<I> Inputs<I> {
    /// Puts an event in, once there is room.
    ///
    /// # Errors
    /// [`NotTaken`] when the other end is gone.
    pub async fn send(&self, input: I) -> Result<(), NotTaken> {
        self.send_since(Instant::now(), input).await
    }

    /// The same for an event that another thread knew of at that time.
    ///
    /// # Errors
    /// [`NotTaken`] when the other end is gone.
    pub async fn send_since(&self, at: Instant, input: I) -> Result<(), NotTaken> {
        self.0.send((at, input)).await.map_err(|_| NotTaken)
    }

    /// Puts an event in if there is room.
    ///
    /// # Errors
    /// [`NotTaken`] if there is none, or the other end is gone.
    pub fn try_send(&self, input: I) -> Result<(), NotTaken> {
        let stamped = (Instant::now(), input);
        self.0.try_send(stamped).map_err(|_| NotTaken)
    }
}

impl<I> Arrivals<I> {
    /// The next event; `None` when there is nobody left who could send one. Dropping the future loses none.
    pub async fn recv(&mut self) -> Option<I> {
        self.next().await.map(|(_, input)| input)
    }

    /// The same with the time at which it came to be known.
    pub async fn next(&mut self) -> Option<(Instant, I)> {
        self.0.recv().await
    }

    /// An event that is there already.
    ///
    /// # Errors
    /// Whether there may still come one.
    pub fn try_next(&mut self) -> Result<(Instant, I), TryRecvError> {
        self.0.try_recv()
    }
}

/// Since when something waits to be carried out: the earliest event of each kind that no pass has seen yet.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    input: Option<Instant>,
    kernel: Option<Instant>,
}

impl Waiting {
    /// An input that came at that time.
    pub(super) fn input(&mut self, at: Instant) {
        self.input = Some(self.input.map_or(at, |before| before.min(at)));
    }

    /// An event of the kernel, which a pass sees only if it reads the kernel first.
    pub(super) fn kernel(&mut self, at: Instant) {
        self.kernel = Some(self.kernel.map_or(at, |before| before.min(at)));
    }

    /// Since when the pass that begins now has been waited for, if an event brought it.
    pub(super) fn take(&mut self, reading: bool) -> Option<Instant> {
        let kernel = if reading { self.kernel.take() } else { None };
        self.input.take().into_iter().chain(kernel).min()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_earliest_event_that_no_pass_has_seen_counts() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let mut waiting = Waiting::default();
        assert_eq!(waiting.take(true), None);
        waiting.input(at(7));
        waiting.input(at(3));
        waiting.input(at(9));
        assert_eq!(waiting.take(false), Some(at(3)));
        assert_eq!(waiting.take(false), None, "each pass is its own");
        // One of the kernel waits until the kernel is read.
        waiting.kernel(at(10));
        waiting.kernel(at(12));
        waiting.input(at(11));
        assert_eq!(waiting.take(false), Some(at(11)));
        waiting.input(at(14));
        assert_eq!(waiting.take(true), Some(at(10)));
        assert_eq!(waiting.take(true), None);
    }

    #[tokio::test]
    async fn an_event_that_waits_for_room_carries_the_time_before_that() {
        let (inputs, mut arrivals) = channel(1);
        inputs.send(1).await.unwrap();
        assert_eq!(inputs.try_send(2), Err(NotTaken));
        let more = inputs.clone();
        let before = Instant::now();
        let waits = tokio::spawn(async move { more.send(3).await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        let after = Instant::now();
        assert_eq!(arrivals.recv().await, Some(1));
        let (at, input) = arrivals.next().await.unwrap();
        assert_eq!(input, 3);
        assert!(before <= at && at < after);
        waits.await.unwrap().unwrap();
        drop(arrivals);
        assert_eq!(inputs.send(4).await, Err(NotTaken));
    }
}
