//! The bench's command line: which figures, how long, where to write.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use hedgerow_bench::report::Measured;
use hedgerow_bench::{Answer, Entry, FIGURES, Kind, Settings, flows, measure, report};

const HELP: &str = "\
Measures figures of Hedgerow beside those of its peers, interleaved in one run on the same cores.

usage: bench/run [NAME...] [--quick] [--out DIR] [--list]

  NAME       figures to run (default: all but those that take minutes)
  --quick    shorter rounds and fewer of them
  --out DIR  where figures.json, raw numbers and plots go (default: target/bench)
  --list     name the figures and stop
";

struct Options {
    names: Vec<String>,
    quick: bool,
    list: bool,
    out: PathBuf,
}

fn options() -> Result<Options, String> {
    let mut options =
        Options { names: vec![], quick: false, list: false, out: PathBuf::from("target/bench") };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => options.quick = true,
            "--list" => options.list = true,
            "--out" => options.out = args.next().ok_or("--out needs a directory")?.into(),
            "--help" | "-h" => return Err(HELP.into()),
            name if name.starts_with('-') => return Err(format!("unknown option {name}\n\n{HELP}")),
            name => options.names.push(name.into()),
        }
    }
    Ok(options)
}

/// Says what is being done, over the last line on a terminal; only the beginning of a figure elsewhere.
fn progress(name: &str, what: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{name:<20} {what}");
        let _ = std::io::stderr().flush();
    }
}

fn clear() {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
}

fn one(entry: &Entry, quick: bool) -> Result<Answer, String> {
    if !std::io::stderr().is_terminal() {
        eprintln!("{}", entry.name);
    }
    match entry.kind {
        Kind::Memory(make) => {
            let rounds = if quick { 5 } else { 11 };
            let mut figure = make(quick);
            let result = measure(figure.as_mut(), rounds, |round| {
                progress(entry.name, &format!("round {} of {rounds}", round + 1));
            });
            let raw = serde_json::json!(result.samples);
            Ok(Answer::Measured(Box::new(Measured { result, raw, plots: vec![] })))
        }
        Kind::Rig(run) => run(&Settings { quick, progress: &|what| progress(entry.name, what) }),
    }
}

/// Runs what was asked for; whether all of it could be measured.
fn run(options: &Options) -> Result<bool, String> {
    let known = |name: &String| FIGURES.iter().any(|entry| entry.name == name);
    if let Some(unknown) = options.names.iter().find(|name| !known(name)) {
        return Err(format!("no figure named {unknown}; --list names them"));
    }
    let named = |entry: &Entry| options.names.iter().any(|name| name == entry.name);
    let wanted = |entry: &&Entry| match options.names.is_empty() {
        true => options.list || !entry.long,
        false => named(entry),
    };
    if options.list {
        for entry in FIGURES.iter().filter(wanted) {
            let long = if entry.long { " (only by name)" } else { "" };
            println!("{:<20} {}{long}", entry.name, entry.about);
        }
        return Ok(true);
    }
    let (mut results, mut remarks, mut whole) = (vec![], vec![], true);
    let begin = std::time::Instant::now();
    for entry in FIGURES.iter().filter(wanted) {
        let answer = one(entry, options.quick);
        clear();
        match answer {
            Ok(Answer::Measured(measured)) => {
                report::details(&measured, &options.out)
                    .map_err(|e| format!("{}: {e}", options.out.display()))?;
                results.push(measured.result);
            }
            Ok(Answer::Skipped(reason)) => remarks.push(format!("{} skipped: {reason}", entry.name)),
            Err(failure) => {
                whole = false;
                remarks.push(format!("{} FAILED: {failure}", entry.name));
            }
        }
    }
    report::table(&results, &mut std::io::stdout()).map_err(|e| e.to_string())?;
    for remark in remarks {
        println!("{remark}");
    }
    report::json(&results, &options.out).map_err(|e| format!("{}: {e}", options.out.display()))?;
    println!("\n{} s; written to {}", begin.elapsed().as_secs(), options.out.display());
    Ok(whole)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [child, flows] = arguments.as_slice()
        && child == flows::CHILD
    {
        println!("{}", flows::bytes_per_flow(flows.parse().unwrap_or(0)));
        return ExitCode::SUCCESS;
    }
    match options().and_then(|options| run(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}
