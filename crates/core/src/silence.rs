//! Silence, counted by one who may not have run for a while itself.

use std::time::Duration;

/// How often whoever listens looks.
pub const LOOK: Duration = Duration::from_secs(1);

/// For how long nothing was heard of something that is to be heard at each look. A look counts, not the time since the one before: what stood
/// still together with the listener, in a stopped virtual machine for instance, was not silent meanwhile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Silence(u32);

impl Silence {
    /// It was heard.
    pub fn heard(&mut self) {
        self.0 = 0;
    }

    /// A look, [`LOOK`] after the one before or later; how long the silence is by then.
    pub fn look(&mut self) -> Duration {
        self.0 = self.0.saturating_add(1);
        LOOK.saturating_mul(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_count_and_what_is_heard_ends_it() {
        let mut silence = Silence::default();
        assert_eq!(silence.look(), Duration::from_secs(1));
        assert_eq!(silence.look(), Duration::from_secs(2));
        silence.heard();
        assert_eq!(silence.look(), Duration::from_secs(1));
    }
}
