//! Both ends of a ring in memory of this process: one is ours, the other plays the kernel.

use std::{collections::VecDeque, thread};

use proptest::prelude::*;

use super::*;

/// A ring whose positions begin at `start`, with both of its ends.
fn ring(size: u32, start: u32) -> (Producer<u64>, Consumer<u64>, Arc<Memory>) {
    let memory = Arc::new(Memory::ordinary(64 * 4 + size as usize * 8).unwrap());
    let offsets = Offsets {
        producer: 0,
        consumer: 64,
        flags: 128,
        entries: 192,
    };
    for offset in [offsets.producer, offsets.consumer] {
        // SAFETY: within the memory; nobody else looks at it yet.
        unsafe { memory.values::<u32>(offset, 1).write(start) };
    }
    let producer = Producer::new(Arc::clone(&memory), offsets, size);
    let consumer = Consumer::new(Arc::clone(&memory), offsets, size);
    (producer, consumer, memory)
}

#[test]
fn a_full_ring_takes_no_more_and_an_empty_one_gives_nothing() {
    let (mut producer, mut consumer, _) = ring(4, 0);
    assert_eq!((producer.look(), consumer.look()), (4, 0));
    for i in 0..4 {
        producer.put(i, u64::from(i));
    }
    // Nothing is there before it is published.
    assert_eq!(consumer.look(), 0);
    producer.publish(4);
    assert_eq!((producer.look(), consumer.look()), (0, 4));
    assert_eq!((0..4).map(|i| consumer.get(i)).sum::<u64>(), 6);
    // Nothing is free before it is given back.
    assert_eq!(producer.look(), 0);
    consumer.release(3);
    assert_eq!((producer.look(), consumer.look()), (3, 1));
    assert_eq!(consumer.get(0), 3);
}

#[test]
fn the_kernel_asks_to_be_woken_in_the_flags() {
    let (producer, _, memory) = ring(2, 0);
    assert!(!producer.wants_wakeup());
    // SAFETY: within the memory.
    unsafe {
        memory
            .values::<u32>(128, 1)
            .write(libc::XDP_RING_NEED_WAKEUP);
    };
    assert!(producer.wants_wakeup());
}

#[test]
#[should_panic(expected = "2 of 2")]
fn what_was_not_found_is_not_read() {
    let (mut producer, mut consumer, _) = ring(4, 0);
    producer.look();
    producer.put(0, 7);
    producer.put(1, 8);
    producer.publish(2);
    assert_eq!(consumer.look(), 2);
    consumer.get(2);
}

#[test]
#[should_panic(expected = "0 of 0")]
fn what_is_not_free_is_not_overwritten() {
    let (mut producer, _, _) = ring(1, 0);
    producer.look();
    producer.put(0, 7);
    producer.publish(1);
    assert_eq!(producer.look(), 0);
    producer.put(0, 8);
}

#[test]
fn positions_that_make_no_sense_stay_within_the_ring() {
    let (mut producer, mut consumer, memory) = ring(4, 0);
    // SAFETY: within the memory.
    unsafe {
        memory.values::<u32>(0, 1).write(1000);
        memory.values::<u32>(64, 1).write(7);
    }
    assert!(consumer.look() <= 4 && producer.look() <= 4);
}

proptest! {
    /// Against a queue of the standard library, over the end of the numbers too.
    #[test]
    fn a_ring_is_a_queue(
        size in (0_u32..6).prop_map(|shift| 1 << shift),
        before_wrap in 0_u32..100,
        steps in prop::collection::vec((any::<bool>(), 0_u32..40), 1..200),
    ) {
        let (mut producer, mut consumer, _) = ring(size, 0_u32.wrapping_sub(before_wrap));
        let mut model = VecDeque::new();
        let mut number = 0_u64;
        for (puts, wanted) in steps {
            if puts {
                let count = producer.look().min(wanted);
                prop_assert_eq!(producer.look() as usize, size as usize - model.len());
                for i in 0..count {
                    producer.put(i, number);
                    model.push_back(number);
                    number += 1;
                }
                producer.publish(count);
            } else {
                let count = consumer.look().min(wanted);
                prop_assert_eq!(consumer.look() as usize, model.len());
                for i in 0..count {
                    prop_assert_eq!(Some(consumer.get(i)), model.pop_front());
                }
                consumer.release(count);
            }
        }
    }
}

/// Two threads, each with one end, across the end of the numbers.
#[test]
fn nothing_is_lost_between_threads() {
    const ENTRIES: u64 = 200_000;
    let (mut producer, mut consumer, _) = ring(64, u32::MAX - 1000);
    let putting = thread::spawn(move || {
        let mut number = 0;
        while number < ENTRIES {
            let free = u64::from(producer.look()).min(ENTRIES - number) as u32;
            for i in 0..free {
                producer.put(i, number);
                number += 1;
            }
            producer.publish(free);
            if free == 0 {
                thread::yield_now();
            }
        }
    });
    let mut expected = 0;
    while expected < ENTRIES {
        let count = consumer.look();
        for i in 0..count {
            assert_eq!(consumer.get(i), expected);
            expected += 1;
        }
        consumer.release(count);
        if count == 0 {
            thread::yield_now();
        }
    }
    putting.join().unwrap();
    assert_eq!(consumer.look(), 0);
}
