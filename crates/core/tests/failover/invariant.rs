//! The invariant of `docs/failover.md`, checked after each step, by what the simulation knows and no gateway does.

use std::collections::BTreeMap;

use strait_core::gateway::election::Role;
use strait_core::hello::Turn;

use crate::world::{Micros, World};

/// A gateway that has been well for so long may not be ousted.
const WELL: Micros = 2_000_000;

/// What was before.
#[derive(Default)]
pub(crate) struct Invariant {
    /// By node: which life of its gateway this is, the newest turn that it knew, and its role. One that goes on in the turn of a dead
    /// process lives on, also while there is no process.
    gateways: BTreeMap<usize, (u64, Option<Turn>, Role)>,
    followed: BTreeMap<usize, Turn>,
    agents: BTreeMap<usize, Micros>,
    /// By lease number: who carried the traffic in it.
    leases: BTreeMap<u64, (usize, u64)>,
    published: Option<Turn>,
}

impl Invariant {
    pub(crate) fn agent_began(&mut self, node: usize, now: Micros) {
        self.followed.remove(&node);
        self.agents.insert(node, now);
    }

    pub(crate) fn check(&mut self, world: &World) -> Result<(), String> {
        let before: Vec<Turn> = self
            .gateways
            .iter()
            .filter_map(|(node, (_, _, role))| match role {
                Role::Active(term) => Some(Turn {
                    term: *term,
                    holder: format!("n{node}"),
                }),
                Role::Standby => None,
            })
            .collect();
        for (i, node) in world.nodes.iter().enumerate() {
            let Some(gateway) = &node.gateway else {
                if node.orphan.is_none() {
                    self.gateways.remove(&i);
                }
                continue;
            };
            let role = gateway.election.role();
            let newest = gateway.election.newest().cloned();
            let known = self
                .gateways
                .get(&i)
                .filter(|(life, ..)| *life == gateway.life);
            let was = known.map_or(Role::Standby, |(_, _, role)| *role);
            if known.is_some_and(|(_, before, _)| *before > newest) {
                return Err(format!("n{i} has forgotten a turn: {known:?} → {newest:?}"));
            }
            if let Role::Active(term) = role {
                let turn = Turn {
                    term,
                    holder: node.name.clone(),
                };
                if newest.as_ref() != Some(&turn) {
                    return Err(format!(
                        "n{i} carries the traffic in {turn:?} and knows of {newest:?}"
                    ));
                }
                if term.ballot == 0 {
                    let who = *self.leases.entry(term.lease).or_insert((i, gateway.life));
                    if who != (i, gateway.life) {
                        return Err(format!("{turn:?} was n{}'s already", who.0));
                    }
                }
                if was == Role::Standby {
                    self.may_begin(world, i, &before)?;
                }
            }
            self.gateways.insert(i, (gateway.life, newest, role));
        }
        for i in 0..world.nodes.len() {
            let Some(turn) = world.followed(i) else {
                continue;
            };
            if self.followed.get(&i).is_some_and(|before| *before > turn) {
                return Err(format!(
                    "n{i} went back from {:?} to {turn:?}",
                    self.followed[&i]
                ));
            }
            self.followed.insert(i, turn);
        }
        let published = world.endpoints.iter().map(|(holder, term)| Turn {
            term: *term,
            holder: holder.clone(),
        });
        let published = published.max();
        if published < self.published {
            return Err(format!(
                "what is published went back from {:?} to {published:?}",
                self.published
            ));
        }
        self.published = published;
        Ok(())
    }

    /// Nobody begins while another carries the traffic, is well, and is heard: by the one who begins, or by an agent that this
    /// one hears. Whether the API server can be reached does not matter.
    fn may_begin(&self, world: &World, who: usize, before: &[Turn]) -> Result<(), String> {
        let now = world.now;
        let well = |since: Micros| since + WELL <= now;
        let calm = world.loss == 0 && world.delay <= 20 && well(world.calm_since);
        if !calm {
            return Ok(());
        }
        let steady = |i: usize| {
            let node = &world.nodes[i];
            node.up && !node.stopped && well(node.steady_since)
        };
        let whole = |a: usize, b: usize| {
            a == b
                || [(a, b), (b, a)].iter().all(|(from, to)| {
                    let link = world.links[*from][*to];
                    !link.cut && well(link.whole_since)
                })
        };
        if !steady(who) {
            return Ok(());
        }
        let own = world
            .lease
            .as_ref()
            .is_some_and(|l| l.record.holder.starts_with(&format!("n{who}-")));
        for turn in before {
            let other: usize = turn.holder[1..].parse().unwrap();
            let gateway = world.nodes[other].gateway.as_ref();
            let leaving = gateway.map_or(world.nodes[other].orphan.is_none(), |gateway| {
                gateway.leaving
            });
            let newest = before.iter().max() == Some(turn);
            let known = self
                .gateways
                .get(&who)
                .and_then(|(_, newest, _)| newest.clone());
            if other == who || leaving || !newest || !steady(other) || known.as_ref() > Some(turn) {
                continue;
            }
            if whole(who, other) {
                return Err(format!(
                    "n{who} began, though {turn:?} goes on and is heard"
                ));
            }
            // One that finds the Lease in its own name, or none, need not ask.
            let asks = world.lease.is_some() && !own;
            let witness = (0..world.nodes.len()).find(|agent| {
                let running = self.agents.get(agent).is_some_and(|begun| well(*begun));
                let follows = self.followed.get(agent) == Some(turn);
                let heard = world.nodes[*agent].agent.is_some();
                heard && running && follows && whole(*agent, other) && whole(*agent, who)
            });
            if let Some(witness) = witness.filter(|_| asks) {
                return Err(format!("n{who} began, though n{witness} hears {turn:?}"));
            }
        }
        Ok(())
    }
}
