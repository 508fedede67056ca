//! Whose turn it is, as members come and go.

use super::{
    Presence::{Away, Coming, There},
    *,
};

const HOLD_DOWN: Duration = Duration::from_secs(30);

fn seats(count: usize) -> Vec<Seat> {
    let members = Members::new(count, false, HOLD_DOWN);
    (0..count).map(|number| members.seat(number)).collect()
}

#[test]
fn the_first_that_is_there_has_the_turn_and_takes_it_back_after_the_hold_down() {
    let seats = seats(3);
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    assert_eq!(seats[0].turn(There, true, at(0)), Turn::Begins);
    assert_eq!(seats[1].turn(There, true, at(0)), Turn::Anothers);
    assert_eq!(seats[0].turn(There, true, at(1)), Turn::Mine);
    // It fails; the next one takes over once it has let go.
    assert_eq!(seats[1].turn(There, true, at(2)), Turn::Anothers);
    assert_eq!(seats[0].turn(Away, true, at(2)), Turn::Anothers);
    assert_eq!(seats[2].turn(There, true, at(2)), Turn::Anothers);
    assert_eq!(seats[1].turn(There, true, at(2)), Turn::Begins);
    // It is back, but not for long enough.
    assert_eq!(seats[0].turn(There, true, at(10)), Turn::Anothers);
    assert_eq!(seats[1].turn(There, true, at(39)), Turn::Mine);
    // It comes and goes: the time begins again.
    assert_eq!(seats[0].turn(Away, true, at(39)), Turn::Anothers);
    assert_eq!(seats[0].turn(There, true, at(41)), Turn::Anothers);
    assert_eq!(seats[1].turn(There, true, at(50)), Turn::Mine);
    // What is on its way is waited for.
    assert_eq!(seats[1].turn(There, false, at(72)), Turn::Settles);
    assert_eq!(seats[0].turn(There, true, at(72)), Turn::Anothers);
    assert_eq!(seats[1].turn(There, true, at(72)), Turn::Anothers);
    assert_eq!(seats[0].turn(There, true, at(72)), Turn::Begins);
    // A session that is followed by another is no failure.
    assert_eq!(seats[0].turn(Coming, true, at(80)), Turn::Mine);
    assert_eq!(seats[1].turn(There, true, at(80)), Turn::Anothers);
}

#[test]
fn where_none_is_there_the_first_that_comes_back_has_the_turn() {
    let seats = seats(2);
    let now = Instant::now();
    assert_eq!(seats[0].turn(There, true, now), Turn::Begins);
    for seat in seats.iter().rev() {
        assert_eq!(seat.turn(Away, true, now), Turn::Anothers);
    }
    assert_eq!(seats[1].turn(There, true, now), Turn::Begins);
    assert_eq!(seats[0].turn(Away, true, now), Turn::Anothers);
    assert!(!seats[1].retire());
    assert!(seats[0].retire());
}

/// Connections come up in any order: those before it in the list are waited for, but not for ever.
#[test]
fn one_that_was_never_tried_is_waited_for() {
    let now = Instant::now();
    let two = seats(2);
    assert_eq!(two[1].turn(There, true, now), Turn::Anothers);
    assert_eq!(two[0].turn(Coming, true, now), Turn::Anothers);
    assert_eq!(two[1].turn(There, true, now), Turn::Anothers);
    assert_eq!(two[0].turn(There, true, now), Turn::Begins);
    // It fails at once.
    let two = seats(2);
    assert_eq!(two[1].turn(There, true, now), Turn::Anothers);
    assert_eq!(two[0].turn(Away, true, now), Turn::Anothers);
    assert_eq!(two[1].turn(There, true, now), Turn::Begins);
    // It takes its time.
    let two = seats(2);
    assert_eq!(two[1].turn(There, true, now), Turn::Anothers);
    assert_eq!(two[0].turn(Coming, true, now + COMING), Turn::Anothers);
    assert_eq!(two[1].turn(There, true, now + COMING), Turn::Begins);
    // One that it comes before is not.
    let two = seats(2);
    assert_eq!(two[0].turn(There, true, now), Turn::Begins);
}

#[test]
fn a_queue_is_kept_for_collectors_that_are_there_and_steady() {
    let members = Members::new(2, false, HOLD_DOWN);
    let seats = [members.seat(0), members.seat(1)];
    let now = Instant::now();
    assert_eq!(members.standing(now), Standing::Steady, "nothing is known");
    seats[0].turn(Away, true, now);
    assert_eq!(members.standing(now), Standing::Steady, "one is new");
    seats[1].turn(Away, true, now);
    assert_eq!(members.standing(now), Standing::Away);
    seats[1].turn(There, true, now);
    assert_eq!(members.standing(now), Standing::Back);
    assert_eq!(members.standing(now + HOLD_DOWN), Standing::Steady);
}

/// The spool has the flows while no collector is there; what is on disk goes first, to one of them,
/// and the spool may take flows meanwhile.
#[test]
fn the_spool_stands_in_and_is_emptied_by_whose_turn_it_is() {
    let members = Members::new(2, true, HOLD_DOWN);
    let (one, two, spool) = (members.seat(0), members.seat(1), members.spool_seat());
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    assert!(members.nobody_takes(at(0)));
    assert_eq!(one.turn(There, true, at(0)), Turn::Begins);
    assert!(!members.nobody_takes(at(0)));
    assert_eq!(two.turn(There, true, at(0)), Turn::Anothers);
    assert_eq!(spool.turn(Coming, true, at(0)), Turn::Anothers);
    for seat in [&one, &two] {
        assert_eq!(seat.turn(Away, true, at(1)), Turn::Anothers);
    }
    assert!(members.nobody_takes(at(1)));
    assert_eq!(spool.turn(There, true, at(1)), Turn::Begins);
    members.set_backlog(true);
    // There is no hold-down between the disk and a collector.
    assert_eq!(two.turn(There, true, at(2)), Turn::Drains);
    assert!(members.nobody_takes(at(2)), "what is on disk goes first");
    assert_eq!(spool.turn(There, true, at(2)), Turn::Mine);
    assert_eq!(one.turn(There, true, at(3)), Turn::Anothers);
    assert_eq!(spool.turn(Coming, true, at(3)), Turn::Anothers, "enough");
    // The preferred one is steady: it goes on with what is left.
    assert_eq!(two.turn(There, false, at(33)), Turn::Settles);
    assert_eq!(one.turn(There, true, at(33)), Turn::Anothers);
    assert_eq!(two.turn(There, true, at(33)), Turn::Anothers);
    assert_eq!(one.turn(There, true, at(33)), Turn::Drains);
    // It has all of it, and takes the queue when the spool has let go of it.
    assert_eq!(spool.turn(There, true, at(34)), Turn::Begins);
    members.set_backlog(false);
    assert_eq!(one.turn(There, true, at(34)), Turn::Anothers);
    assert_eq!(spool.turn(There, false, at(34)), Turn::Settles);
    assert_eq!(spool.turn(There, true, at(34)), Turn::Anothers);
    assert_eq!(one.turn(There, true, at(34)), Turn::Begins);
    // At the end what waits is for the spool.
    assert!(!one.retire() && !two.retire());
    assert!(members.collectors_are_gone() && members.nobody_takes(at(35)));
    assert_eq!(spool.turn(There, true, at(35)), Turn::Begins);
    assert!(spool.retire());
}

/// A collector that does not keep up: what it has is let arrive, then it goes on with what is on disk.
#[test]
fn where_the_queue_is_nearly_full_the_spool_takes_over() {
    let members = Members::new(1, true, HOLD_DOWN);
    let (collector, spool) = (members.seat(0), members.spool_seat());
    let now = Instant::now();
    assert_eq!(collector.turn(There, true, now), Turn::Begins);
    assert_eq!(spool.turn(Coming, true, now), Turn::Anothers);
    assert!(!members.nobody_takes(now));
    members.set_pressed(true);
    assert!(members.nobody_takes(now));
    // The spool is not ready yet.
    assert_eq!(collector.turn(There, false, now), Turn::Mine);
    assert_eq!(spool.turn(There, true, now), Turn::Anothers);
    // It does not wait for what the collector has.
    assert_eq!(collector.turn(There, false, now), Turn::Settles);
    assert_eq!(spool.turn(There, true, now), Turn::Begins);
    members.set_backlog(true);
    assert_eq!(collector.turn(There, false, now), Turn::Settles);
    assert_eq!(collector.turn(There, true, now), Turn::Drains);
    assert_eq!(spool.turn(There, true, now), Turn::Mine);
    // All of it has arrived, and there is room in the queue.
    members.set_backlog(false);
    members.set_pressed(false);
    assert_eq!(collector.turn(There, true, now), Turn::Anothers);
    assert_eq!(spool.turn(Coming, true, now), Turn::Anothers);
    assert_eq!(collector.turn(There, true, now), Turn::Begins);
}
