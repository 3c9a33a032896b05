//! The kept corpus: real bodies that must be accepted, and whatever a fuzzer once found, judged the same in any cutting.

use std::path::Path;

use hedgerow_policy::chia::{Message, Schema};
use hedgerow_tests::bodies::judge_consistently;

#[test]
fn the_kept_corpus_is_judged_consistently_and_messages_of_nodes_pass() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let (mut messages, mut found) = (0, 0);
    for entry in std::fs::read_dir(folder).expect("the corpus") {
        let path = entry.expect("a file").path();
        let bytes = std::fs::read(&path).expect("its bytes");
        let judged = judge_consistently(&bytes);
        // What `corpus.py` wrote are whole messages; a fuzzer's finds have names without an ending.
        if path.extension().is_some_and(|ending| ending == "bin") {
            messages += 1;
            Message::decode(&bytes).expect("a message");
            let fault = judged.expect("a known type").err();
            assert_eq!(fault.map(|fault| fault.path(&Schema::embedded())), None, "{}", path.display());
        } else {
            found += 1;
        }
    }
    assert!(messages >= 10, "{messages} messages, {found} finds");
}
