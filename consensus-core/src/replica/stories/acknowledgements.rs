//! Stories of what a follower tells its leader about its disk.

use super::*;

fn commit_notice(story: &mut Story, commit: u64) -> usize {
    story.sent.clear();
    story.peer(append(1, 2, 1, (1, 1), &[], commit));
    story.settle();
    story.count_sent(MessageType::MsgAppendResponse)
}

#[test]
fn the_news_of_a_commit_is_not_answered_with_what_has_just_been_said() {
    let mut story = Story::new(2, &[1, 2, 3]);
    story.peer(append(1, 2, 1, (0, 0), &[(1, 1)], 0));
    story.settle();
    assert_eq!(story.count_sent(MessageType::MsgAppendResponse), 1);
    assert_eq!(commit_notice(&mut story, 1), 0);
    assert_eq!(story.status().commit, 1, "it is heard all the same");
}

#[test]
fn an_acknowledgement_that_may_have_got_lost_is_repeated_after_a_while() {
    let mut story = Story::new(2, &[1, 2, 3]);
    story.peer(append(1, 2, 1, (0, 0), &[(1, 1)], 0));
    story.settle();
    story.ticks(2);
    assert_eq!(commit_notice(&mut story, 1), 1);
    assert_eq!(commit_notice(&mut story, 1), 0);
}

#[test]
fn a_refusal_is_always_told() {
    let mut story = Story::new(2, &[1, 2, 3]);
    for _ in 0..2 {
        story.sent.clear();
        story.peer(append(1, 2, 1, (7, 1), &[], 0));
        story.settle();
        assert_eq!(story.count_sent(MessageType::MsgAppendResponse), 1);
    }
}
