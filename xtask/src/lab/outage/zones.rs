//! What installation A has and B has not: PoPs on hosts of their own in two zones, a second connector, and a fault
//! proxy before the controller.

use super::{
    super::{daemon::Daemon, namespace::Namespace, probe::this_program, topology},
    ground::{Ground, Machine, START},
    proxy::FaultProxy,
};
use crate::process::{signal_process, wait_until};
use anyhow::{Context as _, Result, ensure};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

/// PoPs on the internet: a name, an address, a zone, and which machine it is.
const POPS: [(&str, Ipv4Addr, &str, Machine); 2] = [
    ("pop1", Ipv4Addr::new(203, 0, 113, 11), "north", Machine::Pop1),
    ("pop2", Ipv4Addr::new(203, 0, 113, 12), "south", Machine::Pop2),
];
/// The second connector in the site.
const CONNECTOR2: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 6);
/// Where the controller listens behind the proxy.
pub const BEHIND: &str = "127.0.0.1:8443";

/// A PoP of its own.
#[derive(Debug)]
pub struct Pop {
    /// The machine.
    pub machine: Machine,
    name: &'static str,
    address: Ipv4Addr,
    /// `pop-…`
    id: String,
    daemon: Option<Daemon>,
    /// Its network.
    pub host: Namespace,
}

/// See the module.
#[derive(Debug)]
pub struct Zones {
    /// The second connector.
    pub connector2: Option<Daemon>,
    /// What stands where a PoP stood.
    garbage: Option<Daemon>,
    /// The PoPs.
    pub pops: Vec<Pop>,
    /// The second connector's network.
    pub connector2_host: Namespace,
    /// Before the controller.
    pub proxy: FaultProxy,
}

impl Zones {
    /// The hosts, with nothing enrolled.
    ///
    /// # Errors
    /// The kernel refuses a part of it.
    pub fn create(
        net: &mut topology::Topology,
        place: &Path,
        interrupt: &crate::process::Interrupt,
    ) -> Result<Self> {
        let mut pops = Vec::new();
        for (name, address, _, machine) in POPS {
            let host = net.public_host(name, address, interrupt)?;
            pops.push(Pop { machine, name, address, id: String::new(), daemon: None, host });
        }
        let connector2_host = net.site_router.host("conn2", CONNECTOR2, interrupt)?;
        let listen = SocketAddr::new(topology::SERVER.into(), 443);
        let proxy = FaultProxy::start(&net.server, listen, BEHIND.parse()?, place, interrupt)?;
        Ok(Self { connector2: None, garbage: None, pops, connector2_host, proxy })
    }
}

impl Ground {
    fn zones_mut(&mut self) -> Result<&mut Zones> {
        self.zones.as_mut().context("installation A")
    }

    /// The parts of installation A.
    ///
    /// # Errors
    /// It is B.
    pub fn zones(&self) -> Result<&Zones> {
        self.zones.as_ref().context("installation A")
    }

    /// Enrols and starts the PoPs.
    ///
    /// # Errors
    /// They do not come up.
    pub fn enrol_pops(&mut self) -> Result<()> {
        for (index, (name, _, zone, _)) in POPS.into_iter().enumerate() {
            let key = ["--pop", "--region", "lab", "--zone", zone];
            let key = self.fleet.key(&self.net.server, &format!("{name}.key"), &key)?;
            self.start_pop(index, Some(&key))?;
        }
        wait_until("both PoPs dialled by the controller", START, &self.interrupt, || {
            Ok((self.admin(&["status"])?["pops_attached"] == POPS.len()).then_some(()))
        })?;
        let listed = self.admin(&["list", "pops"])?;
        let listed = listed["items"].as_array().context("PoPs")?.clone();
        for pop in &mut self.zones_mut()?.pops {
            let found = listed.iter().find(|item| item["name"] == pop.name);
            found.and_then(|item| item["id"].as_str()).context("a PoP's id")?.clone_into(&mut pop.id);
        }
        Ok(())
    }

    /// Starts a PoP, the first time with a key.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start_pop(&mut self, index: usize, key: Option<&str>) -> Result<()> {
        let pop = self.zones()?.pops.get(index).context("such a PoP")?;
        let (machine, name, address) = (pop.machine, pop.name, format!("{}:443", pop.address));
        let state = self.fleet.state(name).display().to_string();
        let mut arguments = vec!["pop", "--state", &state, "--listen", &address, "--advertise", &address];
        arguments.extend(["--name", name]);
        if let Some(key) = key {
            arguments.extend(["--join-file", key]);
        }
        let mut daemon = self.launch(machine, name, &arguments)?;
        self.fleet.ready(&mut daemon, name)?;
        self.zones_mut()?.pops[index].daemon = Some(daemon);
        Ok(())
    }

    /// Ends a PoP as a power cut would.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill_pop(&mut self, index: usize) -> Result<()> {
        let daemon = self.zones_mut()?.pops[index].daemon.take().context("the PoP runs")?;
        signal_process(daemon.pid(), libc::SIGKILL);
        Ok(())
    }

    /// Which PoP the device that rows are about is registered at.
    ///
    /// # Errors
    /// None.
    pub fn pop_in_use(&self) -> Result<usize> {
        let status = self.status(&self.alice)?;
        let registered: Vec<&str> = status["pops"]
            .as_array()
            .context("PoPs")?
            .iter()
            .filter(|pop| pop["session"] == "registered")
            .filter_map(|pop| pop["id"].as_str())
            .collect();
        let found = self.zones()?.pops.iter().position(|pop| registered.contains(&pop.id.as_str()));
        found.with_context(|| format!("registered at {registered:?}"))
    }

    /// Lets something that is no PoP answer in a PoP's place.
    ///
    /// # Errors
    /// It does not come up.
    pub fn garbage_for_pop(&mut self, index: usize) -> Result<()> {
        self.kill_pop(index)?;
        let pop = &self.zones()?.pops[index];
        let mut command = pop.host.command(this_program());
        command.args(["lab", "garbage", "--listen", &format!("{}:443", pop.address)]);
        let mut daemon = Daemon::start(command, &self.fleet.place().join("garbage.log"))?;
        daemon.wait_line("the garbage", START, &self.interrupt, |line| {
            line.starts_with("garbage on").then_some(())
        })?;
        self.zones_mut()?.garbage = Some(daemon);
        Ok(())
    }

    /// Ends it.
    ///
    /// # Errors
    /// It is B.
    pub fn end_garbage(&mut self) -> Result<()> {
        self.zones_mut()?.garbage = None;
        Ok(())
    }

    /// The PoP's host drops every datagram, and says nothing; TCP goes on.
    ///
    /// # Errors
    /// `nft` refuses.
    pub fn black_hole(&self, index: usize, hole: BlackHole) -> Result<()> {
        let drop = match hole {
            BlackHole::Opens => "meta l4proto udp drop",
            BlackHole::Closes => "",
        };
        let pop = &self.zones()?.pops[index];
        pop.host.nft(&format!(
            "table inet hole
            delete table inet hole
            table inet hole {{
                chain in {{ type filter hook input priority 0; policy accept; {drop}
                }}
                chain out {{ type filter hook output priority 0; policy accept; {drop}
                }}
            }}\n"
        ))
    }

    /// Of 100 datagrams that the client's router forwards, each way, so many are lost.
    ///
    /// # Errors
    /// `nft` refuses.
    pub fn lose(&self, percent: u8) -> Result<()> {
        ensure!(percent <= 100, "{percent} %");
        let rule = if percent > 0 {
            format!("meta l4proto udp numgen random mod 100 < {percent} drop")
        } else {
            String::new()
        };
        self.net.client_router.namespace().nft(&format!(
            "table inet loss
            delete table inet loss
            table inet loss {{
                chain forward {{ type filter hook forward priority -160; policy accept; {rule}
                }}
            }}\n"
        ))
    }

    /// What every PoP's host received, in bytes.
    ///
    /// # Errors
    /// A counter cannot be read.
    pub fn pops_received(&self) -> Result<u64> {
        let counter = "/sys/class/net/eth0/statistics/rx_bytes";
        let hosts: Vec<&Namespace> = match &self.zones {
            Some(zones) => zones.pops.iter().map(|pop| &pop.host).collect(),
            None => vec![&self.net.server],
        };
        hosts.into_iter().try_fold(0, |sum, host| {
            let bytes: u64 = host.run(START, "cat", &[counter])?.stdout.trim().parse()?;
            Ok(sum + bytes)
        })
    }
}

/// Whether datagrams vanish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlackHole {
    /// From now on.
    Opens,
    /// Not any more.
    Closes,
}
