//! How many events may be in flight. After a failure only one, and with each that the far end answers one more, so that it doubles with
//! each round: an event that cannot go for the time being is tried alone then, where a whole window behind it would be published
//! again with every try; and a link that a window is too much for is not offered all of it anew.

/// The window of one sink.
#[derive(Debug)]
pub(super) struct Window {
    most: usize,
    open: usize,
}

impl Window {
    /// One of so many events, open: nothing has failed yet.
    pub(super) fn new(most: usize) -> Window {
        Window { most, open: most }
    }

    /// Events that may be in flight now.
    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// All that was in flight goes again.
    pub(super) fn failed(&mut self) {
        self.open = self.most.min(1);
    }

    /// The far end has answered an event.
    pub(super) fn answered(&mut self) {
        self.open = self.most.min(self.open.saturating_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_whole_until_something_fails_and_opens_again_with_answers() {
        let mut window = Window::new(3);
        window.answered();
        assert_eq!(window.open(), 3);
        window.failed();
        let mut seen = vec![window.open()];
        for _ in 0..3 {
            window.answered();
            seen.push(window.open());
        }
        assert_eq!(seen, [1, 2, 3, 3]);
    }
}
