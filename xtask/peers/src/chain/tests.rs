use super::*;

const NOW: u64 = 1_000_000;

fn chain(own: u8) -> Chain {
    let validators = (1..=4).map(|number| Bytes::from(vec![number; 20])).collect();
    Chain::new(&ControllerConfig {
        controller_port: 0,
        consensus_port: 0,
        network_port: 0,
        address: Bytes::from(vec![own; 20]),
        block_interval: 3,
        validators,
        chain_id: Bytes::from_static(b"test"),
        genesis_ms: 1,
    })
}

fn commit(chain: &mut Chain, height: u64, data: &Bytes) -> Result<(), u32> {
    match chain.judge_commit(height, data) {
        Judgement::Next(block) => {
            chain.append(block, data.clone(), Arrival::Commit, NOW);
            Ok(())
        }
        Judgement::Here => Err(0),
        Judgement::Refused(refusal) => Err(refusal.code),
    }
}

fn code_of(checked: Result<(), Refusal>) -> u32 {
    checked.map_or_else(|refusal| refusal.code, |()| 0)
}

#[test]
fn an_own_proposal_stays_the_same_until_a_block_is_taken() {
    let mut chain = chain(1);
    let (height, first) = chain.propose(NOW);
    chain.pool.insert(Bytes::from("late"));
    assert_eq!(chain.propose(NOW + 5), (height, first.clone()));
    commit(&mut chain, 1, &first).unwrap();
    let (height, second) = chain.propose(NOW + 9);
    assert_eq!(height, 2);
    assert_eq!(Block::decode(second).unwrap().transactions.len(), 1);
}

#[test]
fn every_verdict_on_a_proposal_has_its_code() {
    let (mut a, mut b) = (chain(1), chain(2));
    let (_, first) = a.propose(NOW);
    assert_eq!(code_of(b.check(1, &Bytes::from_static(b"\xff"), NOW)), code::DECODE_ERROR);
    assert_eq!(code_of(b.check(2, &first, NOW)), code::PROPOSAL_CHECK_ERROR, "heights differ");
    assert_eq!(code_of(b.check(1, &first, NOW - 3001)), code::PROPOSAL_CHECK_ERROR, "from the future");
    assert_eq!(code_of(b.check(1, &first, NOW - 3000)), code::SUCCESS);
    assert!(b.has_candidate());
    commit(&mut a, 1, &first).unwrap();
    let (_, second) = a.propose(NOW);
    let mut c = chain(3);
    let (_, other) = c.propose(NOW);
    commit(&mut c, 1, &other).unwrap();
    assert_eq!(code_of(c.check(2, &second, NOW)), code::PROPOSAL_CHECK_ERROR, "after another block");
    commit(&mut b, 1, &first).unwrap();
    assert!(!b.has_candidate());
    assert_eq!(code_of(b.check(1, &first, NOW)), code::PROPOSAL_TOO_LOW);
    commit(&mut a, 2, &second).unwrap();
    let (_, third) = a.propose(NOW);
    assert_eq!(code_of(b.check(3, &third, NOW)), code::PROPOSAL_TOO_HIGH);
    let (_, stranger) = chain(9).propose(NOW);
    assert_eq!(code_of(chain(1).check(1, &stranger, NOW)), code::PROPOSAL_CHECK_ERROR, "no validator");
}

#[test]
fn a_missing_transaction_is_named_and_its_arrival_changes_the_verdict() {
    let (mut a, mut b) = (chain(1), chain(2));
    let hash = a.pool.insert(Bytes::from("tx"));
    let (_, data) = a.propose(NOW);
    let refusal = b.check(1, &data, NOW).unwrap_err();
    assert_eq!((refusal.code, refusal.missing.as_slice()), (code::NONE_RAW_TX, &[hash][..]));
    assert_eq!(refusal.proposer, Bytes::from(vec![1; 20]));
    assert_eq!(commit(&mut b, 1, &data), Err(code::NONE_RAW_TX));
    b.pool.insert(Bytes::from("tx"));
    assert_eq!(code_of(b.check(1, &data, NOW)), code::SUCCESS);
    assert_eq!(commit(&mut b, 1, &data), Ok(()));
}

#[test]
fn a_height_that_is_here_is_done_whatever_it_contains() {
    let (mut a, mut b) = (chain(1), chain(2));
    let ((_, ours), (_, theirs)) = (a.propose(NOW), b.propose(NOW));
    commit(&mut a, 1, &ours).unwrap();
    assert_eq!(commit(&mut a, 1, &theirs), Err(0));
    assert_eq!(commit(&mut a, 3, &theirs), Err(code::PROPOSAL_TOO_HIGH));
    assert_eq!(a.tip().data, ours);
}

#[test]
fn a_change_is_in_force_from_the_next_height_on_every_node() {
    let (mut a, mut b) = (chain(1), chain(2));
    let validators = vec![Bytes::from(vec![2; 20])];
    a.change = Some(Change { validators: validators.clone(), block_interval: Some(0) });
    let (_, data) = a.propose(NOW);
    assert_eq!(code_of(b.check(1, &data, NOW)), code::SUCCESS);
    for chain in [&mut a, &mut b] {
        assert_eq!(chain.settings().block_interval, 3);
        commit(chain, 1, &data).unwrap();
        assert_eq!(**chain.settings(), Settings { block_interval: 0, validators: validators.clone() });
    }
    assert_eq!(a.change, None);
    let (_, removed) = a.propose(NOW);
    assert_eq!(code_of(b.check(2, &removed, NOW)), code::PROPOSAL_CHECK_ERROR);
}

#[test]
fn a_rollback_takes_blocks_and_what_they_changed_and_leaves_the_first() {
    let mut chain = chain(1);
    chain.change = Some(Change { validators: Vec::new(), block_interval: Some(9) });
    for height in 1..=3 {
        let (_, data) = chain.propose(NOW);
        commit(&mut chain, height, &data).unwrap();
    }
    assert_eq!((chain.roll_back(2), chain.settings().block_interval), (1, 9));
    assert_eq!((chain.roll_back(7), chain.settings().block_interval), (0, 3));
    assert_eq!(chain.height(), 0);
}

#[test]
fn padding_makes_a_proposal_as_large_as_wanted() {
    let mut chain = chain(1);
    chain.padding = 8 << 20;
    let (_, data) = chain.propose(NOW);
    assert!(data.len() > 8 << 20);
    assert_eq!(commit(&mut chain, 1, &data), Ok(()));
}
