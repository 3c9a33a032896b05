//! Our judgement of bodies and of a peer's haste against the node's own, in Python: all types, those too that the Rust
//! types of the node do not have.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use hedgerow_policy::chia::{Body, Envelope, Limiter, Schema, Scratches, Tables};
use hedgerow_policy::rules::Limits;

use crate::bodies::Bodies;
use crate::bodies::model::Model;
use crate::check::{Context, Outcome, Report, ensure};
use crate::nodes::{python, script};

const SCHEMA: &str = include_str!("../../policy/schema/protocol.json");

/// Bodies of each type: a valid one and changed ones.
const ROUNDS: usize = 40;
const CHANGES: usize = 5;

/// Peers whose haste is compared, and their messages.
const PEERS: u64 = 120;
const MESSAGES: u64 = 600;

/// The generators of both groups, and infinity.
const G1: [&str; 2] = [
    "97f1d3a73197d7942695638c4fa9ac0fc3688c4f9774b905a14e3a3f171bac586c55e83ff97a1aeffb3af00adb22c6bb",
    "c00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000",
];
const G2: [&str; 2] = [
    "93e02b6052719f607dacd3a088274f65596bd0d09920b61ab5da61bbdc7f5049334cf11213945d57e5ac7d055d042b7e\
     024aa2b2f08f0a91260805272dc51051c6e47ad4fa403b02b4510b647ae3d1770bac0326a805bbefd48056c8c121bdb8",
    "c00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000\
     000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000",
];

/// Runs the suite.
pub fn run(report: &mut Report) {
    report.case("bodies", bodies);
    report.case("limits", limits);
}

/// Asks all questions and yields an answer to each.
fn ask(questions: String) -> Outcome<Vec<String>> {
    let mut child = Command::new(python()?)
        .arg(script("bodies.py")?)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting Python")?;
    let mut pipe = BufWriter::new(child.stdin.take().context("its input")?);
    let writer = thread::spawn(move || pipe.write_all(questions.as_bytes()).and_then(|()| pipe.flush()));
    let lines = BufReader::new(child.stdout.take().context("its output")?).lines();
    let answers = lines.collect::<Result<Vec<String>, _>>().context("its answers")?;
    let written = writer.join().map_err(|_| "the writer panicked".to_owned())?;
    let status = child.wait().context("its end")?;
    ensure(status.success(), || format!("bodies.py ended with {status}"))?;
    written.context("asking")?;
    Ok(answers)
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).filter_map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn bodies() -> Outcome {
    let (schema, scratches, model) = (Schema::embedded(), Scratches::new(1), Model::new(SCHEMA));
    let (first, second) = (G1.map(bytes), G2.map(bytes));
    let mut drawn = Bodies::new(&model, 4, [&first, &second]);
    let (mut questions, mut ours) = (String::new(), Vec::new());
    for kind in (0..ROUNDS).flat_map(|_| &model.kinds) {
        let valid = drawn.valid(&kind.body);
        for change in 0..=CHANGES {
            let mut body = valid.clone();
            if change > 0 {
                drawn.change(&mut body);
            }
            let mut judged = Body::of(&schema, kind.number, body.len() as u32).context("a known type")?;
            let accepted = judged.take(&schema, &scratches, &body).is_ok();
            ours.push((kind.name.clone(), accepted, body.clone()));
            let _ = writeln!(questions, "body {} {}", kind.name, hex(&body));
        }
    }
    let answers = ask(questions)?;
    ensure(answers.len() == ours.len(), || format!("{} answers to {}", answers.len(), ours.len()))?;
    let (mut off_curve, mut accepted) = (0, 0);
    for (answer, (name, ours, body)) in answers.iter().zip(&ours) {
        match answer.as_str() {
            "off-curve" => off_curve += 1,
            answer => {
                accepted += usize::from(*ours);
                ensure((answer == "yes") == *ours, || {
                    format!("{name}: the node says {answer}, we say {ours}: {}", hex(body))
                })?;
            }
        }
    }
    println!("          {} bodies, {accepted} valid, {off_curve} off the curve", answers.len());
    ensure(accepted > answers.len() / 10 && off_curve < answers.len() / 4, || {
        "hardly anything compared".into()
    })
}

fn limits() -> Outcome {
    let schema = Schema::embedded();
    let limits = Limits::of(&schema);
    let mut random = crate::bodies::Random::new(9);
    let (mut questions, mut ours) = (String::new(), Vec::new());
    for peer in 0..PEERS {
        let tables = Tables { second: peer % 2 == 0, third: false };
        let _ = writeln!(questions, "start {}", 1 + u8::from(tables.second));
        ours.push(true);
        let mut limiter = Limiter::default();
        let mut millis = random.below(100_000);
        let kinds: Vec<_> =
            (0..1 + random.below(4)).map(|_| random.below(schema.messages().len() as u64)).collect();
        for _ in 0..MESSAGES {
            millis += random.pick(&[0, 0, 1, 50, 900]);
            let facts = &schema.messages()[random.pick(&kinds) as usize];
            let size = random.pick(&[0, 10, 100, 101, 1_000, 20_000]) as u32;
            let envelope = Envelope { kind: facts.number, id: None, body: size };
            let passes = limiter.count(Duration::from_millis(millis), &limits, tables, &envelope).is_ok();
            let _ =
                writeln!(questions, "count {}.{:03} {} {size}", millis / 1_000, millis % 1_000, facts.name);
            ours.push(passes);
            // The node goes on counting after it has hung up; the peer is gone then.
            if !passes {
                break;
            }
        }
    }
    let answers = ask(questions)?;
    let refused = ours.iter().filter(|passes| !**passes).count();
    for (at, (answer, ours)) in answers.iter().zip(&ours).enumerate() {
        ensure((answer == "yes") == *ours, || {
            format!("message {at}: the node says {answer}, we say {ours}")
        })?;
    }
    println!("          {} messages, {refused} peers refused", answers.len());
    ensure(answers.len() == ours.len() && refused > 10, || "hardly anything compared".into())
}
