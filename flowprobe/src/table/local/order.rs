//! Slots in an order: a doubly linked list whose links are kept apart from what the slots hold.

/// No slot.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Link {
    before: u32,
    behind: u32,
}

/// The links of all slots. Each slot is in one [`Queue`] of an order at most.
#[derive(Debug, Default)]
pub(super) struct Order {
    links: Vec<Link>,
}

/// Both ends of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    front: u32,
    back: u32,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            front: NONE,
            back: NONE,
        }
    }
}

impl Queue {
    /// The slot that was put in first.
    pub(super) fn front(&self) -> Option<u32> {
        (self.front != NONE).then_some(self.front)
    }
}

impl Order {
    /// What an order takes for each slot.
    pub(super) const LINK_OCTETS: usize = size_of::<Link>();

    /// Puts a slot last.
    pub(super) fn push_back(&mut self, queue: &mut Queue, slot: u32) {
        let at = slot as usize;
        let link = Link {
            before: queue.back,
            behind: NONE,
        };
        if at >= self.links.len() {
            let unused = Link {
                before: NONE,
                behind: NONE,
            };
            self.links.resize(at + 1, unused);
        }
        self.links[at] = link;
        match queue.back {
            NONE => queue.front = slot,
            back => self.links[back as usize].behind = slot,
        }
        queue.back = slot;
    }

    /// Takes a slot out of the queue that it is in.
    pub(super) fn remove(&mut self, queue: &mut Queue, slot: u32) {
        let Link { before, behind } = self.links[slot as usize];
        match before {
            NONE => queue.front = behind,
            before => self.links[before as usize].behind = behind,
        }
        match behind {
            NONE => queue.back = before,
            behind => self.links[behind as usize].before = before,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(order: &mut Order, queue: &mut Queue) -> Vec<u32> {
        let mut slots = Vec::new();
        while let Some(slot) = queue.front() {
            order.remove(queue, slot);
            slots.push(slot);
        }
        slots
    }

    #[test]
    fn slots_leave_as_they_came() {
        let (mut order, mut queue) = (Order::default(), Queue::default());
        for slot in [3, 1, 4, 0, 5] {
            order.push_back(&mut queue, slot);
        }
        // The middle, both ends, and one that comes back.
        for slot in [4, 3, 5] {
            order.remove(&mut queue, slot);
        }
        order.push_back(&mut queue, 3);
        assert_eq!(drain(&mut order, &mut queue), [1, 0, 3]);
        assert_eq!(queue.front(), None);
    }

    #[test]
    fn queues_of_one_order_are_apart() {
        let mut order = Order::default();
        let mut queues = [Queue::default(); 2];
        for slot in 0..6 {
            order.push_back(&mut queues[slot as usize % 2], slot);
        }
        order.remove(&mut queues[0], 2);
        order.push_back(&mut queues[1], 2);
        assert_eq!(drain(&mut order, &mut queues[0]), [0, 4]);
        assert_eq!(drain(&mut order, &mut queues[1]), [1, 3, 5, 2]);
    }
}
