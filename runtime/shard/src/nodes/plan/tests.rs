use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// A cluster that does what is planned, and what else happens to it.
#[derive(Clone, Debug)]
struct World {
    nodes: BTreeMap<u64, NodeEntry>,
    alive: BTreeSet<u64>,
    groups: Vec<Members>,
    /// A group that does not answer.
    mute: Option<usize>,
    is_new: bool,
    /// Changes of voters that were carried out.
    changes: usize,
}

/// A group's members.
#[derive(Clone, Debug)]
struct Members {
    voters: Vec<BTreeSet<u64>>,
    learners: BTreeSet<u64>,
    /// Those that have not been sent the log yet.
    fresh: BTreeSet<u64>,
    leader: u64,
}

fn entry(state: NodeState) -> NodeEntry {
    NodeEntry { address: "a:1".into(), disk: 1, state }
}

impl World {
    /// So many nodes and groups, of which the first nodes have formed all.
    fn new(founders: u64, groups: usize) -> World {
        let nodes: BTreeMap<u64, NodeEntry> = (1..=founders).map(|node| (node, entry(NodeState::Active))).collect();
        let alive: BTreeSet<u64> = nodes.keys().copied().collect();
        let (learners, fresh) = (BTreeSet::new(), BTreeSet::new());
        let members = Members { voters: vec![alive.clone()], learners, fresh, leader: 1 };
        World { nodes, alive, groups: vec![members; groups], mute: None, is_new: false, changes: 0 }
    }

    fn has_majority(&self, set: &BTreeSet<u64>) -> bool {
        set.intersection(&self.alive).count() > set.len() / 2
    }

    fn standing(&self, at: usize) -> Option<GroupStanding> {
        let Members { voters, learners, fresh, leader } = &self.groups[at];
        if !voters.iter().all(|set| self.has_majority(set)) {
            return None;
        }
        let others: BTreeSet<u64> =
            voters.iter().flatten().chain(learners).copied().filter(|node| node != leader).collect();
        let other = |node: u64| {
            let heard_ms = Some(if self.alive.contains(&node) { 10 } else { 60_000 });
            Following { node, lag_entries: if fresh.contains(&node) { 10_000 } else { 3 }, lag_bytes: 0, heard_ms }
        };
        let others = others.into_iter().map(other).collect();
        let (voters, learners) = (voters.clone(), learners.clone());
        Some(GroupStanding { group: at as u16, leader: *leader, term: 1, last_index: 9, voters, learners, others })
    }

    /// The group has another leader if its own is gone.
    fn elect(&mut self, at: usize, which: usize) {
        let voters: BTreeSet<u64> = self.groups[at].voters.iter().flatten().copied().collect();
        let able: Vec<u64> = voters.intersection(&self.alive).copied().collect();
        if !able.is_empty() {
            self.groups[at].leader = able[which % able.len()];
        }
    }

    fn plan(&self) -> Plan {
        let answers = |at: &usize| self.mute != Some(*at);
        let groups: Vec<_> =
            (0..self.groups.len()).map(|at| Some(at).filter(answers).and_then(|at| self.standing(at))).collect();
        plan(&Look { nodes: &self.nodes, heard: &self.alive, groups: &groups, is_new: self.is_new })
    }

    /// Looks once and does what is planned; a change of voters stops half way if it `stops`.
    fn turn(&mut self, stops: Option<usize>) -> Plan {
        let plan = self.plan();
        for members in &mut self.groups {
            // What lives is sent the log meanwhile.
            members.fresh.retain(|node| !self.alive.contains(node));
        }
        match plan.step.clone() {
            None => {}
            Some(Step::Gone(node)) => {
                let has =
                    |members: &Members| members.voters.iter().flatten().chain(&members.learners).any(|of| *of == node);
                assert!(!self.groups.iter().any(has), "no group has it");
                self.nodes.get_mut(&node).expect("it is there").state = NodeState::Removed;
            }
            Some(Step::Ask(step)) => self.carry_out(step, stops),
        }
        plan
    }

    fn carry_out(&mut self, step: GroupStep, stops: Option<usize>) {
        let at = usize::from(step.group.0);
        let (alive, members) = (self.alive.clone(), &mut self.groups[at]);
        assert_eq!((&step.voters, &step.learners), (&members.voters, &members.learners), "it is decided on these");
        match step.change {
            GroupChange::AddLearner { node } => {
                assert!(!members.voters.iter().flatten().any(|voter| *voter == node), "it is new");
                assert!(members.learners.insert(node) && members.fresh.insert(node));
            }
            GroupChange::RemoveLearner { node } => assert!(members.learners.remove(&node)),
            GroupChange::Transfer { node } => {
                let votes = members.voters.iter().all(|set| set.contains(&node));
                assert!(votes && alive.contains(&node) && !members.fresh.contains(&node), "it can lead");
                members.leader = node;
            }
            GroupChange::Voters(voters) => {
                self.changes += 1;
                let before = members.voters.last().expect("somebody votes").clone();
                for node in voters.difference(&before) {
                    assert!(members.learners.contains(node) || members.voters.len() > 1, "it is sent the log");
                    assert!(!members.fresh.contains(node), "it has the log");
                }
                for set in members.voters.iter().chain([&voters]) {
                    let able = set.intersection(&alive).count();
                    assert!(able > set.len() / 2, "a majority of {set:?} is there");
                }
                let is_half = stops.is_some() && members.voters.len() == 1 && before != voters;
                members.learners.retain(|node| !voters.contains(node));
                members.voters = if is_half { vec![before, voters] } else { vec![voters] };
                let leads = members.voters.iter().flatten().any(|voter| *voter == members.leader);
                if is_half || !leads {
                    self.elect(at, stops.unwrap_or(0));
                }
            }
        }
    }

    /// Goes on until there is nothing to do.
    fn settle(&mut self) -> usize {
        for turns in 0..100 * self.groups.len() {
            let plan = self.turn(None);
            if plan.is_settled {
                assert_eq!(self.plan().step, None);
                return turns;
            }
            assert!(plan.step.is_some() || !plan.waits.is_empty(), "it says what it waits for");
        }
        panic!("it comes to no end: {self:?}");
    }

    fn voters(&self, at: usize) -> &BTreeSet<u64> {
        &self.groups[at].voters[0]
    }

    fn load(&self, node: u64) -> usize {
        self.groups.iter().filter(|members| members.voters[0].contains(&node)).count()
    }

    fn add(&mut self, node: u64) {
        self.nodes.insert(node, entry(NodeState::Active));
        self.alive.insert(node);
    }

    fn set(&mut self, node: u64, state: NodeState) {
        self.nodes.get_mut(&node).expect("it is there").state = state;
    }

    fn in_state(&self, state: NodeState) -> Vec<u64> {
        self.nodes.iter().filter(|(_, entry)| entry.state == state).map(|(node, _)| *node).collect()
    }
}

#[test]
fn one_grows_to_three_and_shrinks_to_one() {
    let mut world = World::new(1, 3);
    world.add(2);
    world.add(3);
    world.settle();
    for group in 0..3 {
        assert_eq!(*world.voters(group), BTreeSet::from([1, 2, 3]));
    }
    assert_eq!(world.changes, 3, "one change for each group");
    world.set(1, NodeState::Leaving);
    world.set(2, NodeState::Leaving);
    world.settle();
    for group in 0..3 {
        assert_eq!((world.voters(group), world.groups[group].leader), (&BTreeSet::from([3]), 3));
    }
    assert_eq!(world.in_state(NodeState::Removed), [1, 2]);
}

#[test]
fn three_grow_to_five_with_few_moves_and_each_group_still_has_three() {
    let mut world = World::new(3, 3);
    world.add(4);
    world.add(5);
    world.settle();
    assert!((0..3).all(|group| world.voters(group).len() == 3));
    let loads: Vec<usize> = (1..=5).map(|node| world.load(node)).collect();
    assert!(loads.iter().all(|load| (1..=2).contains(load)), "{loads:?}");
    assert!(world.changes <= 4, "{}", world.changes);
}

#[test]
fn a_dead_node_is_replaced_when_it_is_removed_and_not_before() {
    let mut world = World::new(3, 3);
    world.alive.remove(&3);
    (0..3).for_each(|group| world.elect(group, 0));
    assert!(world.plan().is_settled, "it may come back");
    world.set(3, NodeState::Leaving);
    world.add(4);
    world.settle();
    for group in 0..3 {
        assert_eq!(*world.voters(group), BTreeSet::from([1, 2, 4]));
    }
    assert_eq!(world.in_state(NodeState::Removed), [3]);
}

#[test]
fn a_step_that_would_stop_a_group_is_not_taken_and_said() {
    let mut world = World::new(3, 1);
    world.alive.remove(&2);
    world.set(3, NodeState::Leaving);
    world.groups[0].leader = 1;
    let plan = world.plan();
    assert_eq!((plan.step, plan.is_settled), (None, false));
    assert!(plan.waits[0].contains("a change would stop the group"), "{:?}", plan.waits);
    world.alive.insert(2);
    // It is back, and would have to catch up before anything were acknowledged.
    world.groups[0].fresh.insert(2);
    assert_eq!(world.plan().step, None);
    world.settle();
    assert_eq!(*world.voters(0), BTreeSet::from([1, 2]));
}

#[test]
fn a_group_without_a_leader_holds_up_no_other() {
    let mut world = World::new(3, 3);
    world.mute = Some(0);
    world.alive.remove(&3);
    (0..3).for_each(|group| world.elect(group, 0));
    world.set(3, NodeState::Leaving);
    world.add(4);
    (0..20).for_each(|_| drop(world.turn(None)));
    let plan = world.plan();
    assert_eq!(plan.step, None);
    assert_eq!(plan.waits, ["group 0 has no leader that answers".into()]);
    assert!(!plan.is_settled);
    for group in 1..3 {
        assert_eq!(*world.voters(group), BTreeSet::from([1, 2, 4]));
    }
    // The first group may still have it.
    assert_eq!(world.nodes[&3].state, NodeState::Leaving);
    world.mute = None;
    world.settle();
    assert_eq!(*world.voters(0), BTreeSet::from([1, 2, 4]));
    assert_eq!(world.in_state(NodeState::Removed), [3]);
}

#[test]
fn without_all_groups_no_move_begins_for_evenness_and_what_has_begun_goes_on() {
    let mut world = World::new(3, 3);
    world.add(4);
    world.mute = Some(2);
    assert_eq!(world.plan().step, None);
    world.mute = None;
    let begun = world.turn(None);
    let Some(Step::Ask(GroupStep { group, change: GroupChange::AddLearner { node: 4 }, .. })) = begun.step else {
        panic!("{begun:?}")
    };
    world.mute = Some(2);
    (0..20).for_each(|_| drop(world.turn(None)));
    assert!(world.voters(usize::from(group.0)).contains(&4), "it is not given up");
    assert_eq!(world.load(4), 1);
    world.mute = None;
    world.settle();
    assert_eq!(world.load(4), 2);
}

#[test]
fn a_node_that_is_drained_leads_nothing_and_stays_where_there_is_no_other() {
    let mut world = World::new(3, 2);
    world.set(1, NodeState::Draining);
    world.settle();
    for group in 0..2 {
        assert!(world.voters(group).contains(&1) && world.groups[group].leader != 1);
    }
    world.add(4);
    world.settle();
    assert_eq!(world.load(1), 0);
    world.set(1, NodeState::Active);
    world.settle();
    assert_eq!(world.load(1), 1, "it has its part again: six voters on four nodes");
}

#[test]
fn leaders_are_moved_from_who_leads_most_to_a_voter_that_leads_least() {
    let mut world = World::new(3, 4);
    let balanced = |world: &World, heard: &BTreeSet<u64>| {
        let groups: Vec<_> = (0..4).map(|at| world.standing(at)).collect();
        let look = Look { nodes: &world.nodes, heard, groups: &groups, is_new: false };
        (balance(&look).map(|step| (step.group.0, step.change)), look.is_even())
    };
    let to = |node| Some((3, GroupChange::Transfer { node }));
    assert_eq!(balanced(&world, &world.alive), (to(2), false), "one leads four, group 0 to the last");
    assert_eq!(balanced(&world, &BTreeSet::from([1, 3])), (to(3), false));
    assert_eq!(balanced(&world, &BTreeSet::from([1])), (None, false), "who is silent leads none");
    (0..4).for_each(|at| world.groups[at].leader = [1, 1, 2, 3][at]);
    assert_eq!(balanced(&world, &world.alive), (None, true));
}

#[test]
fn a_new_cluster_is_settled_when_its_nodes_lead_evenly() {
    let mut world = World::new(3, 4);
    assert!(world.plan().is_settled, "leaders of one that is not new are moved later");
    world.is_new = true;
    assert_eq!(world.settle(), 2, "two leaders are moved");
    let leaders: Vec<u64> = world.groups.iter().map(|members| members.leader).collect();
    assert_eq!(leaders, [1, 1, 3, 2]);

    world.groups[2].leader = 2;
    world.alive.remove(&3);
    let Plan { step, waits, is_settled } = world.plan();
    assert_eq!((step, waits.len(), is_settled), (None, 1, false), "who has not come yet may: {waits:?}");
    assert!(waits[0].starts_with("node 3 is to lead as much as others"), "{waits:?}");
}

#[test]
fn a_new_cluster_whose_voters_do_not_let_it_be_even_is_settled() {
    let mut world = World::new(4, 4);
    world.is_new = true;
    for (at, (voters, leader)) in
        [([2, 3, 4], 3), ([1, 3, 4], 1), ([1, 2, 4], 2), ([1, 2, 3], 3)].into_iter().enumerate()
    {
        (world.groups[at].voters, world.groups[at].leader) = (vec![voters.into()], leader);
    }
    let Plan { step, waits, is_settled } = world.plan();
    assert_eq!((step, waits, is_settled), (None, Vec::new(), true), "one move alone makes nothing better");
}

/// What happens besides what is planned.
#[derive(Clone, Debug)]
enum Event {
    Add,
    Want(Index, NodeState),
    Kill(Index),
    Revive,
    Elect(Index, usize),
    /// A group does not answer, or all do.
    Mute(Option<Index>),
    /// The driver takes a turn; if it changes voters, that stops half way, and another leads.
    Turn(Option<usize>),
}

fn event() -> impl Strategy<Value = Event> {
    let state = prop_oneof![Just(NodeState::Active), Just(NodeState::Draining), Just(NodeState::Leaving)];
    prop_oneof![
        1 => Just(Event::Add),
        2 => (any::<Index>(), state).prop_map(|(which, state)| Event::Want(which, state)),
        1 => any::<Index>().prop_map(Event::Kill),
        1 => Just(Event::Revive),
        1 => (any::<Index>(), 0..9usize).prop_map(|(group, which)| Event::Elect(group, which)),
        2 => any::<Option<Index>>().prop_map(Event::Mute),
        12 => proptest::option::of(0..9usize).prop_map(Event::Turn),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_no_majority_is_lost_and_all_comes_to_rest(
        founders in prop_oneof![Just(1u64), Just(3), Just(5)],
        groups in 1..5usize,
        is_new in any::<bool>(),
        events in vec(event(), 0..120),
    ) {
        let mut world = World::new(founders, groups);
        world.is_new = is_new;
        let mut next = founders + 1;
        for event in events {
            match event {
                Event::Add if next < 9 => {
                    world.add(next);
                    next += 1;
                }
                Event::Add => {}
                Event::Want(which, wanted) => {
                    let there: Vec<u64> =
                        [NodeState::Active, NodeState::Draining].into_iter().flat_map(|state| world.in_state(state)).collect();
                    if wanted != NodeState::Leaving || there.len() > 1 {
                        world.set(there[which.index(there.len())], wanted);
                    }
                }
                Event::Kill(which) => {
                    let node = *which.get(&world.alive.iter().copied().collect::<Vec<_>>());
                    let mut without = world.clone();
                    without.alive.remove(&node);
                    // What stops a group by itself is no fault of the driver's.
                    if (0..groups).all(|at| without.standing(at).is_some()) {
                        world = without;
                        (0..groups).filter(|at| world.groups[*at].leader == node).collect::<Vec<_>>().into_iter()
                            .for_each(|at| world.elect(at, 0));
                    }
                }
                Event::Revive => world.alive = world.nodes.keys().copied().collect(),
                Event::Elect(group, which) => world.elect(group.index(groups), which),
                Event::Mute(group) => world.mute = group.map(|group| group.index(groups)),
                Event::Turn(stops) => drop(world.turn(stops)),
            }
            for at in 0..groups {
                prop_assert!(world.standing(at).is_some(), "group {} has a majority", at);
            }
        }
        (world.alive, world.mute) = (world.nodes.keys().copied().collect(), None);
        world.settle();
        let (active, draining) = (world.in_state(NodeState::Active), world.in_state(NodeState::Draining));
        prop_assert!(world.in_state(NodeState::Leaving).is_empty());
        let size = (active.len() + draining.len()).min(REPLICAS);
        for at in 0..groups {
            let members = &world.groups[at];
            prop_assert_eq!((members.voters.len(), members.voters[0].len(), members.learners.len()), (1, size, 0));
            let leads = members.leader;
            prop_assert!(active.contains(&leads) || !members.voters[0].iter().any(|node| active.contains(node)));
        }
        if active.len() >= REPLICAS {
            let loads: Vec<usize> = active.iter().map(|node| world.load(*node)).collect();
            prop_assert!(loads.iter().max() <= loads.iter().min().map(|least| least + 1).as_ref(), "{:?}", loads);
            prop_assert!(draining.iter().all(|node| world.load(*node) == 0));
        }
    }
}
