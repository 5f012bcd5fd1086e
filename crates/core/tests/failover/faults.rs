//! What can happen to a cluster.

use proptest::collection::vec;
use proptest::prelude::*;

/// Milliseconds within which a parent starts the next process of a gateway, so that others don't notice that one died.
pub(crate) const QUICK: u64 = 80;

/// How many nodes a cluster has: those that may be gateways come first. Each has an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) gateways: usize,
    pub(crate) workers: usize,
}

impl Shape {
    pub(crate) fn nodes(self) -> usize {
        self.gateways + self.workers
    }
}

/// A cluster, and what happens to it.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) shape: Shape,
    pub(crate) seed: u64,
    pub(crate) faults: Vec<Fault>,
}

/// How an API server answers to one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Api {
    Answers,
    /// It refuses at once.
    Refuses,
    /// It takes what is written, and does not say so; requests end after seconds.
    Hangs,
}

/// One thing that happens; nodes by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing comes from the first to the second any more.
    Cut(usize, usize),
    /// Nothing comes from or to a node any more, but from and to itself.
    Isolate(usize),
    /// All links are as they were.
    Mend,
    /// So many of a hundred datagrams are lost, everywhere.
    Lose(u32),
    /// They take up to so many milliseconds, everywhere.
    Delay(u64),
    Api(usize, Api),
    ApiOfAll(Api),
    /// The Lease is removed by hand.
    RemoveLease,
    /// The gateway process ends without a word.
    Kill(usize),
    /// It is asked to end.
    Terminate(usize),
    /// The gateway's process dies without a word, and its parent starts another after so many milliseconds.
    Crash(usize, u64),
    Start(usize),
    /// It stands still, with what comes waiting.
    Stop(usize),
    Continue(usize),
    /// Its main loop stands still, while its election goes on.
    Hang(usize),
    /// That turns again.
    Turn(usize),
    /// The whole node: gateway, agent.
    PowerOff(usize),
    PowerOn(usize),
    /// The agent of a node begins anew.
    RestartAgent(usize),
    /// The secret is replaced.
    Rotate,
    /// Milliseconds pass.
    Wait(u64),
}

impl Fault {
    /// Those of which all short sequences are tried; each is given some time.
    pub(crate) fn alphabet(shape: Shape) -> Vec<Fault> {
        let mut all = vec![
            Fault::Mend,
            Fault::Lose(40),
            Fault::ApiOfAll(Api::Answers),
            Fault::ApiOfAll(Api::Refuses),
            Fault::ApiOfAll(Api::Hangs),
            Fault::RemoveLease,
            Fault::Wait(16_000),
        ];
        for gateway in 0..shape.gateways {
            all.extend([
                Fault::Api(gateway, Api::Refuses),
                Fault::Isolate(gateway),
                Fault::Kill(gateway),
                Fault::Terminate(gateway),
                Fault::Crash(gateway, QUICK),
                Fault::Crash(gateway, 400),
                Fault::Start(gateway),
                Fault::Stop(gateway),
                Fault::Continue(gateway),
                Fault::Hang(gateway),
                Fault::Turn(gateway),
                Fault::PowerOff(gateway),
                Fault::PowerOn(gateway),
            ]);
        }
        for (a, b) in [(0, 1), (1, 0), (0, 2), (2, 0)] {
            all.push(Fault::Cut(a, b));
        }
        all.push(Fault::RestartAgent(shape.gateways));
        all
    }
}

fn fault(shape: Shape) -> impl Strategy<Value = Fault> {
    let node = 0..shape.nodes();
    let gateway = 0..shape.gateways;
    let api = prop_oneof![
        3 => Just(Api::Answers),
        2 => Just(Api::Refuses),
        1 => Just(Api::Hangs)
    ];
    prop_oneof![
        4 => (node.clone(), node.clone()).prop_map(|(a, b)| Fault::Cut(a, b)),
        2 => node.clone().prop_map(Fault::Isolate),
        3 => Just(Fault::Mend),
        2 => (0u32..60).prop_map(Fault::Lose),
        1 => (1u64..250).prop_map(Fault::Delay),
        3 => (node.clone(), api.clone()).prop_map(|(n, a)| Fault::Api(n, a)),
        3 => api.prop_map(Fault::ApiOfAll),
        1 => Just(Fault::RemoveLease),
        3 => gateway.clone().prop_map(Fault::Kill),
        2 => gateway.clone().prop_map(Fault::Terminate),
        4 => (gateway.clone(), prop_oneof![4 => 5..=QUICK, 1 => QUICK..1000])
            .prop_map(|(n, ms)| Fault::Crash(n, ms)),
        4 => gateway.clone().prop_map(Fault::Start),
        2 => gateway.clone().prop_map(Fault::Stop),
        3 => gateway.clone().prop_map(Fault::Continue),
        2 => gateway.clone().prop_map(Fault::Hang),
        3 => gateway.prop_map(Fault::Turn),
        2 => node.clone().prop_map(Fault::PowerOff),
        3 => node.clone().prop_map(Fault::PowerOn),
        1 => node.prop_map(Fault::RestartAgent),
        1 => Just(Fault::Rotate),
        6 => prop_oneof![0u64..400, 400u64..3000, 3000u64..20_000].prop_map(Fault::Wait),
    ]
}

/// A cluster of two to four gateways and none to three workers, and up to fourteen faults.
pub(crate) fn case() -> impl Strategy<Value = Case> {
    (2usize..5, 0usize..4, any::<u64>()).prop_flat_map(|(gateways, workers, seed)| {
        let shape = Shape { gateways, workers };
        vec(fault(shape), 1..15).prop_map(move |faults| Case {
            shape,
            seed,
            faults,
        })
    })
}
