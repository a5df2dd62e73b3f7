//! Golden bytes, and that what is written is read.
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::pin::PIN_BYTES;
use crate::pin::tests::any_pin;

fn any_record() -> impl Strategy<Value = Record> {
    (any::<u32>(), any_pin()).prop_map(|(home, pin)| Record { home: Tag(home), pin })
}

fn any_id() -> impl Strategy<Value = SessionId> {
    any::<[u8; 16]>().prop_map(SessionId)
}

fn any_request() -> impl Strategy<Value = Request> {
    let home = any::<u32>().prop_map(Tag);
    prop_oneof![
        vec(any_record(), 0..9).prop_map(Request::Put),
        vec(any_record(), 0..9).prop_map(Request::HandOff),
        (home.clone(), any_id()).prop_map(|(home, id)| Request::Get(home, id)),
        (any_record(), any::<u64>()).prop_map(|(record, hlc)| Request::Repin { record, replaces: Hlc(hlc) }),
        (any_record(), any::<u64>()).prop_map(|(record, hlc)| Request::Accept { record, replaces: Hlc(hlc) }),
        (home.clone(), any_id(), any::<u64>(), any::<u32>()).prop_map(|(home, id, hlc, node)| {
            Request::Prepare { home, id, ballot: Ballot { hlc: Hlc(hlc), node: Tag(node) } }
        }),
        vec((home.clone(), any_id(), any::<u32>()), 0..9).prop_map(Request::Refresh),
        (home.clone(), vec((0..BUCKETS, any::<u64>().prop_map(Fingerprint)), 0..9))
            .prop_map(|(home, entries)| Request::Digest(home, entries)),
        (home.clone(), vec(0..BUCKETS, 0..9)).prop_map(|(home, buckets)| Request::Keys(home, buckets)),
        (home.clone(), vec(any_id(), 0..9)).prop_map(|(home, ids)| Request::Pull(home, ids)),
        (home, any::<u64>())
            .prop_map(|(home, sum)| Request::Summary(home, Box::new([Fingerprint(sum); GROUPS]))),
    ]
}

fn any_response() -> impl Strategy<Value = Response> {
    prop_oneof![
        vec(any::<u16>(), 0..9).prop_map(|refused| Response::Ack { refused }),
        proptest::option::of(any_pin()).prop_map(Response::Found),
        (any::<bool>(), any::<u64>(), proptest::option::of(any_pin())).prop_map(
            |(granted, promised, held)| { Response::Vote(Vote { granted, promised: Hlc(promised), held }) }
        ),
        any_pin().prop_map(|pin| Response::Repinned(Repinned::Committed(pin))),
        any_pin().prop_map(|pin| Response::Repinned(Repinned::Superseded(pin))),
        any_pin().prop_map(|pin| Response::Repinned(Repinned::Weak(pin))),
        vec(0..BUCKETS, 0..9).prop_map(Response::Differ),
        vec((0..BUCKETS, vec((any_id(), any::<u64>()), 0..4)), 0..4).prop_map(Response::Keys),
        vec(any_pin(), 0..9).prop_map(Response::Pins),
    ]
}

proptest! {
    #[test]
    fn a_message_reads_what_it_writes(request in any_request(), response in any_response()) {
        prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
        prop_assert_eq!(Response::decode(&response.encode()), Ok(response));
    }

    #[test]
    fn a_cut_message_is_none(request in any_request(), response in any_response(), cut in 1usize..200) {
        for bytes in [request.encode(), response.encode()] {
            let cut = &bytes[..bytes.len().saturating_sub(cut)];
            prop_assert_eq!(Request::decode(cut), Err(NotAMessage));
            prop_assert_eq!(Response::decode(cut), Err(NotAMessage));
        }
    }

    #[test]
    fn what_a_later_version_says_is_no_message(request in any_request(), response in any_response(), more in vec(any::<u8>(), 0..9)) {
        for bytes in [request.encode(), response.encode()] {
            let next = [&[VERSION + 1], &bytes[1..], &more].concat();
            // A kind that this version does not know, in a message of this version.
            let kind = [&[VERSION, 0x7f], &bytes[2..]].concat();
            for bytes in [next, kind] {
                prop_assert_eq!(Request::decode(&bytes), Err(NotAMessage));
                prop_assert_eq!(Response::decode(&bytes), Err(NotAMessage));
            }
        }
    }

    #[test]
    fn random_bytes_never_panic(kind in any::<u8>(), bytes in vec(any::<u8>(), 0..300)) {
        let _ = (Request::decode(&bytes), Response::decode(&bytes));
        let framed = [&[VERSION, kind], &bytes[..]].concat();
        let _ = (Request::decode(&framed), Response::decode(&framed));
    }
}

#[test]
fn the_format_is_the_same_for_ever() {
    let id = SessionId([7; 16]);
    let get = [&[1, 3, 9, 0, 0, 0][..], &[7; 16]].concat();
    assert_eq!(Request::Get(Tag(9), id).encode()[..], get);
    let refresh = [&[1, 5, 1, 0, 9, 0, 0, 0][..], &[7; 16], &[2, 0, 0, 0]].concat();
    assert_eq!(Request::Refresh(vec![(Tag(9), id, 2)]).encode()[..], refresh);
    let digest = [1, 6, 9, 0, 0, 0, 1, 0, 0xff, 0x0f, 5, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(Request::Digest(Tag(9), vec![(4095, Fingerprint(5))]).encode()[..], digest);
    assert_eq!(Request::Keys(Tag(9), vec![3]).encode()[..], [1, 7, 9, 0, 0, 0, 1, 0, 3, 0]);
    let pull = [&[1, 8, 9, 0, 0, 0, 1, 0][..], &[7; 16]].concat();
    assert_eq!(Request::Pull(Tag(9), vec![id]).encode()[..], pull);
    let summary = [&[1, 10, 9, 0, 0, 0][..], &[3, 0, 0, 0, 0, 0, 0, 0].repeat(64)].concat();
    assert_eq!(Request::Summary(Tag(9), Box::new([Fingerprint(3); GROUPS])).encode()[..], summary);
    let pin = Pin::decode(&[&[7; 16][..], &[0; 29]].concat()).unwrap();
    let record = Record { home: Tag(9), pin };
    let put = [&[1, 1, 1, 0, 9, 0, 0, 0][..], &[7; 16], &[0; 29]].concat();
    assert_eq!(Request::Put(vec![record]).encode()[..], put);
    assert_eq!(Request::HandOff(vec![record]).encode()[1], 2);
    let repin = [&[1, 4, 9, 0, 0, 0][..], &[7; 16], &[0; 29], &[6, 0, 0, 0, 0, 0, 0, 0]].concat();
    assert_eq!(Request::Repin { record, replaces: Hlc(6) }.encode()[..], repin);
    assert_eq!(Response::Ack { refused: vec![2] }.encode()[..], [1, 129, 1, 0, 2, 0]);
    assert_eq!(Response::Found(None).encode()[..], [1, 130, 0]);
    assert_eq!(Response::Differ(vec![2]).encode()[..], [1, 132, 1, 0, 2, 0]);
    let keys = [&[1, 133, 1, 0, 2, 0, 1, 0, 0, 0][..], &[7; 16], &[8, 0, 0, 0, 0, 0, 0, 0]].concat();
    assert_eq!(Response::Keys(vec![(2, vec![(id, 8)])]).encode()[..], keys);
    let accept = [&[1, 12][..], &repin[2..]].concat();
    assert_eq!(Request::Accept { record, replaces: Hlc(6) }.encode()[..], accept);
    let prepare = [&[1, 11, 9, 0, 0, 0][..], &[7; 16], &[5, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0]].concat();
    let ballot = Ballot { hlc: Hlc(5), node: Tag(4) };
    assert_eq!(Request::Prepare { home: Tag(9), id, ballot }.encode()[..], prepare);
    let vote = Vote { granted: true, promised: Hlc(3), held: None };
    assert_eq!(Response::Vote(vote).encode()[..], [1, 131, 1, 3, 0, 0, 0, 0, 0, 0, 0, 0]);
    let vote = Response::Vote(Vote { held: Some(pin), ..vote }).encode();
    assert_eq!((vote[11], vote.len()), (1, 12 + PIN_BYTES));
    let weak = [&[1, 136, 2][..], &[7; 16], &[0; 29]].concat();
    assert_eq!(Response::Repinned(Repinned::Weak(pin)).encode()[..], weak);
    assert_eq!(Response::Pins(vec![pin]).encode()[..4], [1, 134, 1, 0]);
}

#[test]
fn lists_beyond_their_limit_are_refused() {
    let ids = vec![SessionId([0; 16]); BATCH_MAX + 1];
    assert_eq!(Request::decode(&Request::Pull(Tag(1), ids).encode()), Err(NotAMessage));
    let keys = vec![(SessionId([0; 16]), 0); KEYS_MAX];
    let full = Response::Keys(vec![(0, keys.clone())]).encode();
    assert!(full.len() <= MESSAGE_MAX_BYTES && Response::decode(&full).is_ok());
    let over = Response::Keys(vec![(0, keys), (1, vec![(SessionId([0; 16]), 0)])]).encode();
    assert_eq!(Response::decode(&over), Err(NotAMessage));
    assert_eq!(Request::decode(&[1, 7, 0, 0, 0, 0, 1, 0, 0, 0x10]), Err(NotAMessage));
}
