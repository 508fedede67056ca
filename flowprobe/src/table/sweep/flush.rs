//! The end: everything leaves the tables, when nobody writes to them any more.

use flowprobe_ebpf::table::{State, Way};

use super::{AnyKey, Sweeper, read, slots};
use crate::{
    clock::monotonic_ns,
    record::EndReason,
    table::{Emitter, Flow, Shared, expiry::Expiry, overflow::Shard, shared::Table},
};

impl Sweeper {
    /// Takes out everything, and reads slots that were retired and never read. Only for when
    /// the program is detached and a grace period has passed since: nobody writes any more.
    pub fn flush(&mut self) {
        // Retired in a step whose grace period failed: read below with all the rest.
        self.v4.retired.clear();
        self.v6.retired.clear();
        self.wide.retired.clear();
        for leaving in self.leaving.drain(..) {
            if let Some(flow) = leaving.flow {
                self.emitter.emit(&flow, leaving.due.reason);
            }
        }
        for step in 0..self.steps() {
            let now_ns = monotonic_ns();
            let mut shard = self.overflow.shard(step);
            for bucket in self.overflow.buckets(step) {
                gather(&self.shared, &self.shared.v4, bucket, &mut shard, |flow| {
                    emit_last(&mut self.emitter, &self.expiry, now_ns, flow);
                });
                gather(&self.shared, &self.shared.v6, bucket, &mut shard, |flow| {
                    emit_last(&mut self.emitter, &self.expiry, now_ns, flow);
                });
            }
            for bucket in self.overflow.wide_buckets(step) {
                gather(
                    &self.shared,
                    &self.shared.wide,
                    bucket,
                    &mut shard,
                    |flow| {
                        emit_last(&mut self.emitter, &self.expiry, now_ns, flow);
                    },
                );
            }
            shard.take_due(
                |_| Some(()),
                |flow, ()| emit_last(&mut self.emitter, &self.expiry, now_ns, flow),
            );
        }
        self.emitter.finish();
    }
}

/// Empties one bucket on all CPUs, and the parts of its flows in userspace, when nobody else
/// touches them.
fn gather<W>(
    shared: &Shared,
    table: &Table<W>,
    bucket: u32,
    shard: &mut Shard<'_>,
    mut out: impl FnMut(&Flow),
) where
    W: Way + Copy,
    W::Key: AnyKey,
{
    let mut flows: Vec<Flow> = Vec::new();
    for slot in slots(0..shared.geometry().partitions, bucket) {
        let control = table.load(slot);
        let control = match control.state() {
            State::Live => match table.retire(slot, control) {
                Some(control) => control,
                None => continue,
            },
            State::User => control,
            State::Free | State::Kernel => continue,
        };
        let part = read(shared, table, slot);
        table.release(slot, control);
        match flows.iter_mut().find(|flow| flow.key == part.key) {
            Some(flow) => flow.merge(&part),
            None => flows.push(part),
        }
    }
    for mut flow in flows {
        if !shard.is_empty()
            && let Some(kept) = shard.take(flow.key.hash(shared.secret()), &flow.key)
        {
            flow.merge(&kept);
        }
        out(&flow);
    }
}

/// Emits a flow that must leave because metering ends.
fn emit_last(emitter: &mut Emitter, expiry: &Expiry, now_ns: u64, flow: &Flow) {
    match expiry.due(&flow.counters, &flow.marks, now_ns) {
        Some(due) => emitter.emit_due(flow, due, now_ns),
        None if flow.marks.ended() => emitter.emit(flow, EndReason::EndOfFlow),
        None => emitter.emit(flow, EndReason::ForcedEnd),
    }
}
