//! Messages that the kernel has and that are not settled, and which of them it has given up.
//!
//! The kernel counts what it gives up (RFC 7496 §4.4), and returns what it had not sent yet with the
//! number that it was sent under (RFC 6458 §6.1.11). Linux returns nothing of what it had sent
//! before, and does not say which messages those were. They are taken to be the newest that are
//! due by then and were not returned: what the kernel sends goes in order, so what was on the wire
//! when the other side fell silent is behind what had arrived before, and in front of what was
//! never sent.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// By how much the kernel's clock may be ahead: a tick of its timer, which is 1 to 10 ms.
const TICK: Duration = Duration::from_millis(10);

/// Messages by their number in the session, from 0.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Number of the first message that is not settled.
    settled: u64,
    messages: VecDeque<Message>,
    /// How many had been given up when all was settled for the last time.
    given_up_before: u64,
    /// Those given up that nobody has asked for yet, in their order.
    given_up: VecDeque<u64>,
}

#[derive(Debug)]
struct Message {
    /// When it may be given up, if ever.
    due: Option<Instant>,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    /// Given up, by the count.
    Counted,
    /// Given up: it was returned.
    Returned,
}

impl Window {
    /// Number of the next message.
    pub(super) fn sent(&self) -> u64 {
        self.settled + self.messages.len() as u64
    }

    /// How many messages have arrived or were given up.
    pub(super) fn settled(&self) -> u64 {
        self.settled
    }

    /// How many are on the way.
    pub(super) fn open(&self) -> usize {
        self.messages.len()
    }

    /// The next message is on its way.
    pub(super) fn push(&mut self, due: Option<Instant>) {
        let fate = Fate::Open;
        self.messages.push_back(Message { due, fate });
    }

    /// The kernel returns a message, of which it knows the lower half of the number. One that is in
    /// fragments is returned fragment by fragment.
    pub(super) fn returned(&mut self, number: u32) {
        let at = number.wrapping_sub(self.settled as u32) as usize;
        if let Some(message) = self.messages.get_mut(at)
            && message.due.is_some()
        {
            message.fate = Fate::Returned;
        }
    }

    /// The kernel has given up so many messages since the session began.
    pub(super) fn count(&mut self, given_up: u64, now: Instant) {
        self.choose(given_up, |due| due <= now + TICK);
    }

    /// Of those that were given up and not returned, finds the newest that are `ripe`.
    fn choose(&mut self, given_up: u64, ripe: impl Fn(Instant) -> bool) {
        let with = |fate| self.messages.iter().filter(|m| m.fate == fate).count() as u64;
        let (returned, counted) = (with(Fate::Returned), with(Fate::Counted));
        let given_up = given_up.saturating_sub(self.given_up_before);
        let wanted = given_up.saturating_sub(returned);
        // A message of which some fragments were sent is counted first and returned later.
        let mut too_many = counted.saturating_sub(wanted);
        let mut too_few = wanted.saturating_sub(counted);
        for message in &mut self.messages {
            if too_many > 0 && message.fate == Fate::Counted {
                message.fate = Fate::Open;
                too_many -= 1;
            }
        }
        for message in self.messages.iter_mut().rev() {
            if too_few > 0 && message.fate == Fate::Open && message.due.is_some_and(&ripe) {
                message.fate = Fate::Counted;
                too_few -= 1;
            }
        }
    }

    /// All have arrived, but for those that were given up, of which there are so many.
    pub(super) fn settle(&mut self, given_up: u64, now: Instant) {
        self.count(given_up, now);
        // Whatever the clocks say, all of them are among these.
        self.choose(given_up, |_| true);
        self.report();
        self.given_up_before = given_up;
        self.settled += self.messages.len() as u64;
        self.messages.clear();
    }

    /// The session is over. What is not settled is not known to have arrived.
    pub(super) fn end(&mut self) {
        self.report();
        self.messages.clear();
    }

    fn report(&mut self) {
        let numbers = self.settled..;
        let given_up = numbers
            .zip(&self.messages)
            .filter(|(_, m)| m.fate != Fate::Open);
        self.given_up.extend(given_up.map(|(number, _)| number));
    }

    /// Whether this message was given up. They are asked for in their order.
    pub(super) fn gave_up(&mut self, number: u64) -> bool {
        self.given_up
            .pop_front_if(|first| *first == number)
            .is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Those of the messages up to `sent` that were given up.
    fn given_up(window: &mut Window, sent: u64) -> Vec<u64> {
        (0..sent).filter(|number| window.gave_up(*number)).collect()
    }

    /// One message that stays, then nine that are due one after the other from a second on.
    fn window(start: Instant) -> Window {
        let mut window = Window::default();
        window.push(None);
        for number in 1..10 {
            window.push(Some(start + SECOND * number));
        }
        window
    }

    #[test]
    fn what_is_returned_is_given_up() {
        let start = Instant::now();
        let mut window = window(start);
        for number in [7, 8, 8, 8, 9, 0, 77] {
            window.returned(number);
        }
        window.settle(3, start + SECOND * 20);
        assert_eq!(
            (window.settled(), window.sent(), window.open()),
            (10, 10, 0)
        );
        assert_eq!(
            given_up(&mut window, 10),
            [7, 8, 9],
            "each once; 0 has no lifetime"
        );
        // Numbers go on, and so does the count.
        window.push(Some(start));
        window.returned(10);
        window.settle(4, start + SECOND * 20);
        assert_eq!(given_up(&mut window, 11), [10]);
    }

    /// What was on the wire is behind what had arrived, and in front of what was returned.
    #[test]
    fn what_is_only_counted_is_the_newest_that_is_due() {
        let start = Instant::now();
        let mut window = window(start);
        window.returned(6);
        window.returned(7);
        window.count(4, start + SECOND * 7);
        // Those behind are sent later, and arrive.
        window.settle(4, start + SECOND * 20);
        assert_eq!(given_up(&mut window, 10), [4, 5, 6, 7]);
    }

    #[test]
    fn a_message_that_is_counted_first_and_returned_later_is_one() {
        let start = Instant::now();
        let mut window = window(start);
        window.count(1, start + SECOND * 5);
        window.returned(4);
        window.returned(5);
        window.count(2, start + SECOND * 5);
        window.settle(2, start + SECOND * 5);
        assert_eq!(given_up(&mut window, 10), [4, 5]);
    }

    #[test]
    fn an_end_settles_nothing_but_what_was_given_up() {
        let start = Instant::now();
        let mut window = window(start);
        window.returned(8);
        window.end();
        assert_eq!(window.settled(), 0);
        assert_eq!(given_up(&mut window, 10), [8]);
    }
}
