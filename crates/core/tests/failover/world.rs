//! A cluster: its processes, network and API server, in simulated time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use strait_core::Time;
use strait_core::gateway::election::{
    Answered, Election, Input, Lease, LeaseOperation, Memory, Output, Role, Settings,
};
use strait_core::hello::{Claim, Datagram, Follower, Term, Timing, Turn};
use strait_fuzz::Dice;

use crate::faults::{Api, Fault, QUICK, Shape};
use crate::invariant::Invariant;

pub(crate) const PORT: u16 = 4801;
/// What follows each fault, at least.
const STEP: u64 = 150;

/// Milliseconds; microseconds where it matters.
pub(crate) type Micros = u64;

pub(crate) struct Gateway {
    pub(crate) election: Election,
    /// When it began.
    pub(crate) begun: Micros,
    pub(crate) leaving: bool,
    /// Its main loop stands still.
    hangs: bool,
    incarnation: u64,
    /// The incarnation whose turn it was that this one goes on in.
    pub(crate) life: u64,
    /// When it ran last.
    beat: Micros,
    /// What its Endpoint writer waits for.
    endpoint_at: Micros,
}

/// What a parent has of a gateway whose process died, until it has started the next one.
pub(crate) struct Orphan {
    memory: Memory,
    beat: Micros,
    incarnation: u64,
    life: u64,
    quick: bool,
}

pub(crate) struct Agent {
    pub(crate) follower: Follower,
    pub(crate) begun: Micros,
}

pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) up: bool,
    pub(crate) gateway: Option<Gateway>,
    pub(crate) orphan: Option<Orphan>,
    pub(crate) agent: Option<Agent>,
    /// Its gateway stands still.
    pub(crate) stopped: bool,
    backlog: VecDeque<Action>,
    pub(crate) api: Api,
    /// Local seconds per second, in millionths.
    rate: u64,
    /// What its clock is off, in seconds.
    clock: i64,
    /// Since when it is up, its gateway not stopped.
    pub(crate) steady_since: Micros,
}

#[derive(Clone, Copy)]
pub(crate) struct Link {
    pub(crate) cut: bool,
    /// Since when it is whole.
    pub(crate) whole_since: Micros,
}

#[derive(Clone)]
enum Action {
    ToGateway(usize, Vec<u8>, SocketAddr),
    ToAgent(usize, Vec<u8>, SocketAddr),
    /// A request reaches the API server.
    Serve(usize, u64, LeaseOperation),
    /// Its answer reaches who asked.
    Answer(usize, u64, Answered),
    /// A parent starts the process anew that follows this one.
    Anew(usize, u64),
    /// That process has heard the API server.
    Listed(usize, u64),
}

struct Pending {
    at: Micros,
    order: u64,
    action: Action,
}

impl PartialEq for Pending {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Pending {}
impl PartialOrd for Pending {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Pending {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

pub(crate) struct World {
    pub(crate) shape: Shape,
    pub(crate) now: Micros,
    pub(crate) nodes: Vec<Node>,
    pub(crate) links: Vec<Vec<Link>>,
    pub(crate) loss: u32,
    pub(crate) delay: u64,
    /// Since when nothing is lost or late.
    pub(crate) calm_since: Micros,
    pub(crate) lease: Option<Lease>,
    pub(crate) endpoints: BTreeMap<String, Term>,
    version: u64,
    secret: Vec<u8>,
    queue: BinaryHeap<Reverse<Pending>>,
    order: u64,
    dice: Dice,
    incarnations: u64,
    pub(crate) log: VecDeque<String>,
    invariant: Invariant,
}

fn address(node: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, u8::try_from(node + 1).unwrap()))
}

fn node_of(address: IpAddr) -> usize {
    match address {
        IpAddr::V4(ip) => usize::from(ip.octets()[3]) - 1,
        IpAddr::V6(_) => unreachable!(),
    }
}

impl World {
    pub(crate) fn new(shape: Shape, seed: u64) -> Self {
        let mut dice = Dice::new(seed | 1);
        let count = shape.nodes();
        let nodes = (0..count).map(|i| Node {
            name: format!("n{i}"),
            up: true,
            gateway: None,
            orphan: None,
            agent: None,
            stopped: false,
            backlog: VecDeque::new(),
            api: Api::Answers,
            rate: 980_000 + dice.below(40_001) as u64,
            clock: i64::try_from(dice.below(20_000)).unwrap() - 10_000,
            steady_since: 0,
        });
        let nodes = nodes.collect();
        let whole = Link {
            cut: false,
            whole_since: 0,
        };
        let mut world = Self {
            shape,
            now: 0,
            nodes,
            links: vec![vec![whole; count]; count],
            loss: 0,
            delay: 1,
            calm_since: 0,
            lease: None,
            endpoints: BTreeMap::new(),
            version: 0,
            secret: b"the first secret, of some length".to_vec(),
            queue: BinaryHeap::new(),
            order: 0,
            dice,
            incarnations: 0,
            log: VecDeque::new(),
            invariant: Invariant::default(),
        };
        for node in 0..count {
            world.start_agent(node);
            if node < shape.gateways {
                world.start_gateway(node);
            }
        }
        world
    }

    pub(crate) fn say(&mut self, what: String) {
        if self.log.len() >= 60 {
            self.log.pop_front();
        }
        let ms = self.now / 1000;
        self.log.push_back(format!("  {ms:>6} ms {what}"));
    }

    pub(crate) fn trace(&self) -> String {
        self.log.iter().cloned().collect::<Vec<_>>().join("\n")
    }

    fn local(&self, node: usize, begun: Micros) -> Time {
        let elapsed = (self.now - begun) * self.nodes[node].rate / 1_000_000;
        Time(Duration::from_micros(elapsed))
    }

    fn known_nodes(&self) -> BTreeMap<String, (Vec<IpAddr>, bool)> {
        (0..self.shape.nodes())
            .map(|i| (format!("n{i}"), (vec![address(i)], i < self.shape.gateways)))
            .collect()
    }

    fn start_agent(&mut self, node: usize) {
        self.incarnations += 1;
        let random = 0x1000_0000 + self.incarnations;
        let name = self.nodes[node].name.clone();
        let mut follower = Follower::new(&name, &name, PORT, random);
        follower.secret(&self.secret, Time::default());
        follower.nodes(&self.known_nodes(), Time::default());
        self.nodes[node].agent = Some(Agent {
            follower,
            begun: self.now,
        });
        self.invariant.agent_began(node, self.now);
    }

    fn settings(&self, node: usize) -> Settings {
        let name = self.nodes[node].name.clone();
        Settings {
            node: name.clone(),
            hostname: name,
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
            timing: Timing::default(),
            port: PORT,
        }
    }

    fn set_gateway(&mut self, node: usize, election: Election, life: u64) {
        self.nodes[node].gateway = Some(Gateway {
            election,
            begun: self.now,
            leaving: false,
            hangs: false,
            incarnation: self.incarnations,
            life,
            beat: self.now,
            endpoint_at: 0,
        });
        self.nodes[node].backlog.clear();
    }

    fn start_gateway(&mut self, node: usize) {
        self.incarnations += 1;
        let election = Election::new(self.settings(node), self.incarnations);
        self.set_gateway(node, election, self.incarnations);
        self.nodes[node].steady_since = self.now;
        self.say(format!("gateway n{node} begins"));
        self.list(node);
    }

    /// What API servers and the kernel say to a gateway that begins.
    fn list(&mut self, node: usize) {
        let name = self.nodes[node].name.clone();
        let claim = Claim {
            term: Term::default(),
            addresses: vec![address(node)],
            cable: format!("cable-{name}"),
            backend: "vxlan".into(),
            interface: "vxlan-tunnel".into(),
        };
        let secret = self.secret.clone();
        for input in [
            Input::Secret(secret),
            Input::Nodes(self.known_nodes()),
            Input::Ready(claim),
        ] {
            self.feed(node, input);
        }
    }

    /// Its process dies, and leaves to its parent what it wrote last.
    fn crash(&mut self, node: usize, after: u64) {
        let Some(gateway) = self.nodes[node].gateway.as_ref() else {
            return;
        };
        if gateway.leaving {
            // Its parent was asked to end, too.
            self.kill(node);
            return;
        }
        let quick = after <= QUICK && !self.nodes[node].stopped;
        let orphan = Orphan {
            memory: gateway.election.memory(),
            beat: gateway.beat,
            incarnation: gateway.incarnation,
            life: gateway.life,
            quick,
        };
        let since = self.nodes[node].steady_since;
        self.kill(node);
        if quick {
            self.nodes[node].steady_since = since;
        }
        self.push(
            self.now + after * 1000,
            Action::Anew(node, orphan.incarnation),
        );
        self.nodes[node].orphan = Some(orphan);
    }

    fn anew(&mut self, node: usize, incarnation: u64) {
        let same = |orphan: &mut Orphan| orphan.incarnation == incarnation;
        let Some(orphan) = self.nodes[node].orphan.take_if(same) else {
            return;
        };
        let [beat, now] = [orphan.beat, self.now].map(Duration::from_micros);
        let memory = orphan.memory.at(beat, now, Timing::default());
        let goes_on = memory.goes_on();
        self.incarnations += 1;
        let incarnation = self.incarnations;
        let life = if goes_on { orphan.life } else { incarnation };
        let election = Election::after(self.settings(node), incarnation, memory);
        self.set_gateway(node, election, life);
        if !(goes_on && orphan.quick) {
            self.nodes[node].steady_since = self.now;
        }
        let how = if goes_on { "goes on" } else { "begins" };
        self.say(format!("gateway n{node} {how}, started by its parent"));
        if goes_on {
            self.feed(node, Input::Tick);
            let late = 5_000 + self.dice.below(50_000) as u64;
            self.push(self.now + late, Action::Listed(node, incarnation));
        } else {
            self.list(node);
        }
    }

    fn kill(&mut self, node: usize) {
        self.nodes[node].orphan = None;
        if self.nodes[node].gateway.take().is_some() {
            self.say(format!("gateway n{node} is gone"));
        }
        self.nodes[node].stopped = false;
        self.nodes[node].backlog.clear();
        self.nodes[node].steady_since = self.now;
    }

    fn push(&mut self, at: Micros, action: Action) {
        self.order += 1;
        let order = self.order;
        self.queue.push(Reverse(Pending { at, order, action }));
    }

    fn feed(&mut self, node: usize, input: Input) {
        let Some(gateway) = &self.nodes[node].gateway else {
            return;
        };
        let at = self.local(node, gateway.begun);
        let now = self.now;
        let gateway = self.nodes[node].gateway.as_mut().unwrap();
        gateway.beat = now;
        let before = gateway.election.role();
        let outputs = gateway.election.apply(input, at);
        let (after, incarnation) = (gateway.election.role(), gateway.incarnation);
        let over = gateway.leaving && gateway.election.is_over(at);
        if before != after {
            self.say(format!("gateway n{node}: {before:?} → {after:?}"));
        }
        for output in outputs {
            match output {
                Output::Send(datagram) => self.send(node, true, datagram),
                Output::Lease(operation) => {
                    let late = 1000 + self.dice.below(8000) as u64;
                    self.push(self.now + late, Action::Serve(node, incarnation, operation));
                }
            }
        }
        if over {
            self.kill(node);
        }
    }

    fn send(&mut self, from: usize, gateway: bool, datagram: Datagram) {
        // An agent's socket is another than its node's gateway's.
        let source = SocketAddr::new(address(from), if gateway { PORT } else { 50_000 });
        for target in datagram.to {
            let to = node_of(target.ip());
            let link = self.links[from][to];
            let remote = from != to;
            if remote && (link.cut || self.dice.below(100) < self.loss as usize) {
                continue;
            }
            let late = if remote {
                200 + self.dice.below(usize::try_from(self.delay * 1000).unwrap()) as u64
            } else {
                20
            };
            let bytes = datagram.bytes.clone();
            let action = if target.port() == PORT {
                Action::ToGateway(to, bytes, source)
            } else {
                Action::ToAgent(to, bytes, source)
            };
            self.push(self.now + late, action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::ToGateway(node, ..) | Action::Answer(node, ..)
                if self.nodes[node].stopped && self.nodes[node].backlog.len() < 400 =>
            {
                self.nodes[node].backlog.push_back(action);
            }
            Action::ToGateway(node, bytes, from) => {
                if self.nodes[node].up && !self.nodes[node].stopped {
                    self.feed(node, Input::Datagram(bytes, from));
                }
            }
            Action::ToAgent(node, bytes, from) => {
                let Some(agent) = &self.nodes[node].agent else {
                    return;
                };
                let at = self.local(node, agent.begun);
                let agent = self.nodes[node].agent.as_mut().unwrap();
                let _ = agent.follower.receive(&bytes, from, at);
                self.tick_agent(node);
            }
            Action::Serve(node, incarnation, operation) => self.serve(node, incarnation, operation),
            Action::Anew(node, incarnation) => self.anew(node, incarnation),
            Action::Listed(node, incarnation) => {
                let same = |g: &Gateway| g.incarnation == incarnation;
                let runs = self.nodes[node].gateway.as_ref().is_some_and(same);
                if runs && !self.nodes[node].stopped && self.nodes[node].api == Api::Answers {
                    self.list(node);
                }
            }
            Action::Answer(node, incarnation, answered) => {
                let same = |g: &Gateway| g.incarnation == incarnation;
                if self.nodes[node].gateway.as_ref().is_some_and(same) {
                    self.feed(node, Input::Lease(answered));
                }
            }
        }
    }

    fn serve(&mut self, node: usize, incarnation: u64, operation: LeaseOperation) {
        if !self.nodes[node].up {
            return;
        }
        let late = 1000 + self.dice.below(8000) as u64;
        let (answer, at) = match self.nodes[node].api {
            Api::Refuses => (Answered::Failed, self.now + late),
            // Some requests are carried out all the same.
            Api::Hangs if self.dice.below(2) == 0 => (Answered::Failed, self.now + 5_000_000),
            Api::Hangs => {
                self.lease_operation(node, operation);
                (Answered::Failed, self.now + 5_000_000)
            }
            Api::Answers => (self.lease_operation(node, operation), self.now + late),
        };
        self.push(at, Action::Answer(node, incarnation, answer));
    }

    fn lease_operation(&mut self, node: usize, operation: LeaseOperation) -> Answered {
        match operation {
            LeaseOperation::Read => Answered::Read(self.lease.clone()),
            LeaseOperation::Write {
                mut record,
                version,
                ..
            } => {
                if version != self.lease.as_ref().map(|l| l.version.clone()) {
                    return Answered::Conflict;
                }
                self.version += 1;
                let wall = i64::try_from(self.now).unwrap() + self.nodes[node].clock * 1_000_000;
                record.renewed = wall.to_string();
                let before = self.lease.as_ref().map(|l| l.record.holder.clone());
                if before.as_ref() != Some(&record.holder) {
                    self.say(format!(
                        "Lease: {before:?} → {:?}, {}",
                        record.holder, record.transitions
                    ));
                }
                let lease = Lease {
                    record,
                    version: self.version.to_string(),
                };
                self.lease = Some(lease.clone());
                Answered::Written(lease)
            }
        }
    }

    fn tick_agent(&mut self, node: usize) {
        let Some(agent) = &self.nodes[node].agent else {
            return;
        };
        let at = self.local(node, agent.begun);
        let agent = self.nodes[node].agent.as_mut().unwrap();
        for datagram in agent.follower.tick(at) {
            self.send(node, false, datagram);
        }
    }

    /// What the gateway's plan does with the cluster's Endpoints: its own is written before others go, and none of a newer turn
    /// is touched.
    fn publish(&mut self, node: usize) {
        let Some(gateway) = &mut self.nodes[node].gateway else {
            return;
        };
        if self.now < gateway.endpoint_at || gateway.hangs {
            return;
        }
        gateway.endpoint_at = self.now + 20_000;
        let role = gateway.election.role();
        let known = gateway.election.newest().cloned();
        if self.nodes[node].api != Api::Answers {
            return;
        }
        let published = self.endpoints.iter().map(|(holder, term)| Turn {
            term: *term,
            holder: holder.clone(),
        });
        if let Some(newer) = published.max().filter(|turn| Some(turn) > known.as_ref()) {
            self.feed(node, Input::Seen(newer));
            return;
        }
        let Role::Active(term) = role else {
            return;
        };
        let name = self.nodes[node].name.clone();
        self.endpoints.insert(name.clone(), term);
        self.endpoints.retain(|holder, _| *holder == name);
    }

    /// Lets so many microseconds pass.
    pub(crate) fn pass(&mut self, time: Micros) -> Result<(), String> {
        let until = self.now + time;
        loop {
            let mut next = until;
            if let Some(Reverse(pending)) = self.queue.peek() {
                next = next.min(pending.at);
            }
            let mut due = Vec::new();
            for (i, node) in self.nodes.iter().enumerate() {
                let gateway = node.gateway.as_ref().filter(|_| !node.stopped);
                let gateway = gateway.and_then(|g| Some((g.begun, g.election.deadline()?)));
                let agent = node.agent.as_ref();
                let agent = agent.and_then(|a| Some((a.begun, a.follower.deadline()?)));
                for (is_gateway, deadline) in [(true, gateway), (false, agent)] {
                    let Some((begun, Time(at))) = deadline else {
                        continue;
                    };
                    let local = u64::try_from(at.as_micros()).unwrap();
                    let at = begun + (local * 1_000_000).div_ceil(node.rate);
                    due.push((at.max(self.now), i, is_gateway));
                }
            }
            if let Some((at, ..)) = due.iter().min() {
                next = next.min(*at);
            }
            if next >= until {
                self.now = until;
                return self.check();
            }
            self.now = next;
            let arrived = self.queue.peek().is_some_and(|Reverse(p)| p.at <= next);
            if arrived {
                let Reverse(pending) = self.queue.pop().unwrap();
                self.act(pending.action);
            } else {
                for (at, node, is_gateway) in due {
                    if at > next {
                        continue;
                    }
                    if is_gateway {
                        self.feed(node, Input::Tick);
                        self.publish(node);
                    } else {
                        self.tick_agent(node);
                    }
                }
                // A moment, lest time stand still.
                self.now += 10;
            }
            self.check()?;
        }
    }

    fn check(&mut self) -> Result<(), String> {
        let mut invariant = std::mem::take(&mut self.invariant);
        let result = invariant.check(self);
        self.invariant = invariant;
        result
    }

    /// The start: somebody carries the traffic.
    pub(crate) fn settle(&mut self) -> Result<(), String> {
        self.pass(3_000_000)?;
        self.one_carries()
    }

    fn set_cut(&mut self, from: usize, to: usize, cut: bool) {
        if from == to {
            return;
        }
        let link = &mut self.links[from][to];
        if link.cut && !cut {
            link.whole_since = self.now;
        }
        link.cut = cut;
    }

    fn set_api(&mut self, node: usize, api: Api) {
        self.nodes[node].api = api;
    }

    fn resume(&mut self, node: usize) {
        if !self.nodes[node].stopped {
            return;
        }
        self.nodes[node].stopped = false;
        self.nodes[node].steady_since = self.now;
        let waited: Vec<Action> = self.nodes[node].backlog.drain(..).collect();
        for action in waited {
            self.act(action);
        }
    }

    /// A main loop stands still, or turns again: as the process does, its election is told, unless it ends already.
    fn hang(&mut self, node: usize, hangs: bool) {
        let stopped = self.nodes[node].stopped;
        let Some(gateway) = &mut self.nodes[node].gateway else {
            return;
        };
        if stopped || gateway.hangs == hangs || gateway.leaving {
            return;
        }
        gateway.hangs = hangs;
        self.nodes[node].steady_since = self.now;
        self.feed(node, if hangs { Input::Leave } else { Input::Stay });
    }

    /// One thing happens, and a moment passes.
    pub(crate) fn happen(&mut self, fault: &Fault) -> Result<(), String> {
        self.apply(fault);
        let wait = match fault {
            Fault::Wait(ms) => *ms,
            _ => STEP,
        };
        self.pass(wait * 1000)
    }

    /// One thing happens.
    pub(crate) fn apply(&mut self, fault: &Fault) {
        self.say(format!("— {fault:?}"));
        let count = self.shape.nodes();
        match *fault {
            Fault::Cut(from, to) => self.set_cut(from, to, true),
            Fault::Isolate(node) => {
                for other in 0..count {
                    self.set_cut(node, other, true);
                    self.set_cut(other, node, true);
                }
                self.set_api(node, Api::Refuses);
            }
            Fault::Mend => self.mend(),
            Fault::Lose(share) => {
                self.loss = share;
                self.calm_since = self.now;
            }
            Fault::Delay(ms) => {
                self.delay = ms.max(1);
                self.calm_since = self.now;
            }
            Fault::Api(node, api) => self.set_api(node, api),
            Fault::ApiOfAll(api) => (0..count).for_each(|node| self.set_api(node, api)),
            Fault::RemoveLease => self.lease = None,
            Fault::Kill(node) => self.kill(node),
            Fault::Terminate(node) => {
                // A parent that is asked to end while it has no child ends.
                self.nodes[node].orphan = None;
                if let Some(gateway) = &mut self.nodes[node].gateway {
                    gateway.leaving = true;
                    if !self.nodes[node].stopped {
                        self.feed(node, Input::Leave);
                    }
                }
            }
            Fault::Crash(node, after) => self.crash(node, after),
            Fault::Start(node) => {
                let there = &self.nodes[node];
                if there.up && there.gateway.is_none() && there.orphan.is_none() {
                    self.start_gateway(node);
                }
            }
            Fault::Stop(node) => {
                self.nodes[node].stopped |= self.nodes[node].gateway.is_some();
                self.nodes[node].steady_since = self.now;
            }
            Fault::Continue(node) => self.resume(node),
            Fault::Hang(node) => self.hang(node, true),
            Fault::Turn(node) => self.hang(node, false),
            Fault::PowerOff(node) => {
                self.kill(node);
                self.nodes[node].agent = None;
                self.nodes[node].up = false;
            }
            Fault::PowerOn(node) => self.power_on(node),
            Fault::RestartAgent(node) => {
                if self.nodes[node].up {
                    self.start_agent(node);
                }
            }
            Fault::Rotate => self.rotate(),
            Fault::Wait(_) => {}
        }
    }

    fn mend(&mut self) {
        let count = self.shape.nodes();
        for from in 0..count {
            for to in 0..count {
                self.set_cut(from, to, false);
            }
        }
        self.loss = 0;
        self.delay = 1;
        self.calm_since = self.now;
    }

    fn power_on(&mut self, node: usize) {
        if self.nodes[node].up {
            return;
        }
        self.nodes[node].up = true;
        self.start_agent(node);
        if node < self.shape.gateways {
            self.start_gateway(node);
        }
    }

    /// All that can reach the API server hear of the new secret at once, the others when they can.
    fn rotate(&mut self) {
        let mut secret = format!("secret {}", self.version).into_bytes();
        secret.resize(32, b'.');
        self.secret = secret;
        self.spread();
    }

    fn spread(&mut self) {
        let secret = self.secret.clone();
        for node in 0..self.shape.nodes() {
            if self.nodes[node].api != Api::Answers || !self.nodes[node].up {
                continue;
            }
            if let Some(agent) = &self.nodes[node].agent {
                let at = self.local(node, agent.begun);
                let agent = self.nodes[node].agent.as_mut().unwrap();
                agent.follower.secret(&secret, at);
            }
            if !self.nodes[node].stopped {
                self.feed(node, Input::Secret(secret.clone()));
            }
        }
    }

    /// The faults end; within the bound one gateway must carry the traffic, and it must stay so.
    pub(crate) fn end(&mut self) -> Result<(), String> {
        self.say("— the faults end".into());
        self.mend();
        for node in 0..self.shape.nodes() {
            self.set_api(node, Api::Answers);
            self.resume(node);
            self.hang(node, false);
            self.power_on(node);
            if self.nodes[node].gateway.as_ref().is_some_and(|g| g.leaving) {
                self.feed(node, Input::Leave);
            }
        }
        // Those that end have ended by then.
        self.pass(3_000_000)?;
        self.spread();
        for node in 0..self.shape.gateways {
            if self.nodes[node].gateway.is_none() {
                self.nodes[node].orphan = None;
                self.start_gateway(node);
            }
        }
        // A Lease that holds for 15 s, whose last writer may be seen dead only by that; requests that hang for 5 s; the rest.
        self.pass(24_000_000)?;
        self.one_carries()?;
        let before = self.carriers();
        self.pass(5_000_000)?;
        self.one_carries()?;
        if before == self.carriers() {
            Ok(())
        } else {
            Err(format!(
                "{before:?} became {:?} without a fault",
                self.carriers()
            ))
        }
    }

    pub(crate) fn carriers(&self) -> Vec<Turn> {
        let carries = |node: &Node| match node.gateway.as_ref()?.election.role() {
            Role::Active(term) => Some(Turn {
                term,
                holder: node.name.clone(),
            }),
            Role::Standby => None,
        };
        self.nodes.iter().filter_map(carries).collect()
    }

    /// Exactly one, with the Lease and the Endpoint, and all agents follow it.
    pub(crate) fn one_carries(&self) -> Result<(), String> {
        let carriers = self.carriers();
        let [turn] = &carriers[..] else {
            return Err(format!("these carry the traffic: {carriers:?}"));
        };
        let lease = self.lease.as_ref().map(|l| &l.record);
        let held = lease.is_some_and(|l| {
            l.holder == format!("{}-submariner-gateway", turn.holder)
                && (l.transitions, 0) == (turn.term.lease, turn.term.ballot)
        });
        if !held {
            return Err(format!(
                "{turn:?} carries the traffic, the Lease says {lease:?}"
            ));
        }
        let published = BTreeMap::from([(turn.holder.clone(), turn.term)]);
        if self.endpoints != published {
            return Err(format!(
                "{turn:?} carries the traffic, published are {:?}",
                self.endpoints
            ));
        }
        for (i, node) in self.nodes.iter().enumerate() {
            if node.agent.is_some() && self.followed(i).as_ref() != Some(turn) {
                return Err(format!(
                    "{turn:?} carries the traffic, n{i} follows {:?}",
                    self.followed(i)
                ));
            }
        }
        Ok(())
    }

    /// Whom a node's agent follows.
    pub(crate) fn followed(&self, node: usize) -> Option<Turn> {
        let following = self.nodes[node].agent.as_ref()?.follower.following()?;
        Some(Turn {
            term: following.claim.term,
            holder: following.hostname.clone(),
        })
    }
}
