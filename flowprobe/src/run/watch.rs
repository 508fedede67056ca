//! The interfaces of a run: those whose names are asked for, as they come, go and are renamed.

mod past;
mod refused;
mod there;
mod watched;

use std::{os::fd::OwnedFd, sync::Arc};

pub(super) use self::past::Past;
use self::there::There;
pub(super) use self::watched::examine;
use super::{RunError, Settings, classes::Classes, rx_vlan};
use crate::{
    attach::{Hook, Interface, Netns, NetnsError, XdpMode},
    export::Interfaces,
    load::Kernel,
};

/// How interfaces are watched.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    hook: Hook,
    xdp_mode: XdpMode,
    egress: bool,
    clsact: bool,
    dedup: bool,
    promisc: bool,
}

impl From<&Settings> for How {
    fn from(settings: &Settings) -> Self {
        Self {
            hook: settings.hook,
            xdp_mode: settings.xdp_mode,
            egress: settings.egress,
            clsact: settings.clsact,
            dedup: settings.dedup,
            promisc: settings.promisc,
        }
    }
}

/// What attaching needs.
pub(super) struct Means<'a> {
    pub(super) kernel: &'a mut Kernel,
    pub(super) classes: &'a Classes,
}

/// The interfaces of a run, in the network namespace that they are in.
pub(super) struct Watch {
    /// Where it is not the process's own.
    netns: Option<Arc<Netns>>,
    there: There,
}

impl Watch {
    /// Looks which interfaces there are, refuses those asked for by name that cannot be watched so,
    /// and warns of what will go wrong on others.
    pub(super) fn new(settings: &Settings, names: Arc<Interfaces>) -> Result<Self, RunError> {
        let netns = settings.netns.as_ref().map(Netns::open).transpose()?;
        let netns = netns.map(Arc::new);
        let there = within(netns.as_deref(), || There::new(settings, names))??;
        Ok(Self { netns, there })
    }

    /// The interfaces that are to be watched and are not yet.
    pub(super) fn candidates(&self) -> Vec<Interface> {
        self.there.candidates()
    }

    /// The interfaces on which packets that come in are seen, where that is of use.
    pub(super) fn seen(&self) -> Option<Vec<u32>> {
        self.there.seen()
    }

    /// Does something in the network namespace of the interfaces.
    pub(super) fn within<T>(&self, work: impl FnOnce() -> T) -> Result<T, NetnsError> {
        within(self.netns.as_deref(), work)
    }

    /// What is watched, in words.
    pub(super) fn in_words(&self) -> String {
        self.there.in_words()
    }

    /// Attaches to every interface. Where one that was asked for by name refuses, to none.
    pub(super) fn attach(&mut self, means: &mut Means<'_>) -> Result<(), RunError> {
        within(self.netns.as_deref(), || self.there.attach(means))?
    }

    /// Waits until [`follow`](Self::follow) has something to do. What has been read is kept where
    /// this is not waited for to its end.
    pub(super) async fn changed(&mut self) {
        self.there.changed().await;
    }

    /// Does what has become of interfaces: lets go of those that are gone, follows those that are
    /// renamed, and attaches to one that is new. Says whether it did that.
    pub(super) fn follow(&mut self, means: &mut Means<'_>) -> Result<bool, RunError> {
        Ok(within(self.netns.as_deref(), || self.there.follow(means))?)
    }

    /// All programs that may run: their cost is that of metering.
    pub(super) fn programs(&self, kernel: &mut Kernel) -> Result<Vec<OwnedFd>, RunError> {
        self.there.programs(kernel)
    }

    /// Detaches from all; returns what became of each interface that was watched.
    pub(super) fn detach(self) -> Past {
        let Self { netns, there } = self;
        within(netns.as_deref(), || there.detach()).unwrap_or_else(|error| {
            tracing::error!("{error}: the summary has no interfaces");
            Past::default()
        })
    }
}

pub(super) fn within<T>(netns: Option<&Netns>, work: impl FnOnce() -> T) -> Result<T, NetnsError> {
    match netns {
        Some(netns) => netns.within(work),
        None => Ok(work()),
    }
}
