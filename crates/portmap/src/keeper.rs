//! Mappings of one UDP port at the gateways of both families, for the shell of an agent.

use crate::{
    Protocols, Settings,
    shell::{Family, PortMap, run},
};
use std::{net::SocketAddr, sync::Arc};
use tokio::sync::{Notify, watch};

/// Asks for mappings once it is told that there is a NAT, and keeps them until it is dropped.
#[derive(Debug)]
pub struct Keeper {
    protocols: Protocols,
    seed: [u8; 32],
    kept: Vec<Kept>,
}

#[derive(Debug)]
struct Kept {
    map: PortMap,
    network_changed: Arc<Notify>,
}

impl Keeper {
    /// Nobody has been asked yet. With [`Protocols::NONE`] nobody will be.
    #[must_use]
    pub const fn new(protocols: Protocols, seed: [u8; 32]) -> Self {
        Self { protocols, seed, kept: Vec::new() }
    }

    /// Begins to ask for `local_port`; does nothing when it has begun, or may ask nobody. Call it inside a tokio
    /// runtime.
    pub fn begin(&mut self, local_port: u16, families: &[Family]) {
        if !self.kept.is_empty() || self.protocols.is_empty() {
            return;
        }
        for (at, family) in families.iter().copied().enumerate() {
            let network_changed = Arc::new(Notify::new());
            let mut seed = self.seed;
            seed[0] ^= u8::try_from(at).unwrap_or(u8::MAX);
            let settings =
                Settings { local_port, family, protocols: self.protocols, check_every: None, seed };
            let map = run(settings, Arc::clone(&network_changed));
            self.kept.push(Kept { map, network_changed });
        }
    }

    /// There may be another gateway, or another address of ours.
    pub fn network_changed(&self) {
        for kept in &self.kept {
            kept.network_changed.notify_one();
        }
    }

    /// The outside addresses that hold now.
    #[must_use]
    pub fn mapped(&self) -> Vec<SocketAddr> {
        let now = |kept: &Kept| kept.map.mapping.borrow().as_ref().map(|mapping| mapping.external);
        self.kept.iter().filter_map(now).collect()
    }

    /// Waits until they are others. May be dropped at any time without losing a change.
    pub async fn changed(&mut self) -> Vec<SocketAddr> {
        match self.kept.as_mut_slice() {
            [] => std::future::pending::<()>().await,
            [one] => wait(&mut one.map.mapping).await,
            [one, other, ..] => tokio::select! {
                () = wait(&mut one.map.mapping) => {}
                () = wait(&mut other.map.mapping) => {}
            },
        }
        self.mapped()
    }

    /// Gives the mappings back, within four seconds.
    pub async fn shutdown(self) {
        for kept in self.kept {
            kept.map.shutdown().await;
        }
    }
}

async fn wait(mapping: &mut watch::Receiver<Option<crate::Mapping>>) {
    if mapping.changed().await.is_err() {
        // Its task has ended: nothing will change any more.
        std::future::pending::<()>().await;
    }
}
