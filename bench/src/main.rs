//! The bench's command line: which figures, how long, where to write.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use hedgerow_bench::{FIGURES, measure, report};

const HELP: &str = "\
Measures figures of Hedgerow beside those of its peers, interleaved in one run on one core.

usage: bench/run [NAME...] [--quick] [--out DIR] [--list]

  NAME       figures to run (default: all)
  --quick    shorter rounds and fewer of them
  --out DIR  where figures.json goes (default: target/bench)
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

fn progress(name: &str, round: usize, rounds: usize) {
    if std::io::stderr().is_terminal() {
        eprint!("\r{name:<16} round {} of {rounds} ", round + 1);
        let _ = std::io::stderr().flush();
    } else if round == 0 {
        eprintln!("{name}: {rounds} rounds");
    }
}

fn run(options: &Options) -> Result<(), String> {
    let known = |name: &String| FIGURES.iter().any(|(figure, _)| figure == name);
    if let Some(unknown) = options.names.iter().find(|name| !known(name)) {
        return Err(format!("no figure named {unknown}; --list names them"));
    }
    let rounds = if options.quick { 5 } else { 11 };
    let wanted = |name: &str| options.names.is_empty() || options.names.iter().any(|wanted| wanted == name);
    let mut results = vec![];
    for (name, make) in FIGURES.iter().filter(|(name, _)| wanted(name)) {
        let mut figure = make(options.quick);
        if options.list {
            println!("{name:<16} against {}", figure.peer());
            continue;
        }
        results.push(measure(figure.as_mut(), rounds, |round| progress(name, round, rounds)));
        if std::io::stderr().is_terminal() {
            eprint!("\r{:50}\r", "");
        }
    }
    if options.list {
        return Ok(());
    }
    report::table(&results, &mut std::io::stdout()).map_err(|e| e.to_string())?;
    report::json(&results, &options.out).map_err(|e| format!("{}: {e}", options.out.display()))?;
    println!("\nwritten to {}", options.out.join("figures.json").display());
    Ok(())
}

fn main() -> ExitCode {
    match options().and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}
