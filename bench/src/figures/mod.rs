//! The figures over the rig, one module each, and what they share: worlds that take turns, and the choice of the peer that
//! a result is held against.

pub mod backend;
pub mod bulk;
pub mod connects;
pub mod egress;
pub mod idle;
pub mod kinds;
pub mod node;
pub mod pairs;
pub mod reload;
pub mod session_bytes;
pub mod syn;
pub mod under_flood;

use std::collections::BTreeMap;

use hedgerow_tests::{Context, Outcome};

use crate::report::{Better, Result, median};
use crate::rig::{Contestant, Link, World, needs};
use crate::{Answer, Settings};

/// Builds a world per contestant; the reason where that cannot be done here.
pub fn worlds(
    contestants: &[(Contestant, Link)],
    settings: &Settings<'_>,
) -> Outcome<std::result::Result<Vec<World>, Answer>> {
    let tools: Vec<needs::Tool> = contestants.iter().flat_map(|(c, _)| c.tools()).copied().collect();
    if let Some(reason) = needs::missing(&tools) {
        return Ok(Err(Answer::Skipped(reason)));
    }
    let mut worlds = vec![];
    for (contestant, _) in contestants {
        if let Some(reason) = contestant.unsupported()? {
            return Ok(Err(Answer::Skipped(reason)));
        }
    }
    for (contestant, link) in contestants {
        (settings.progress)(&format!("building the world of {}", contestant.name()));
        worlds.push(World::new(*contestant, *link).context(contestant.name())?);
    }
    Ok(Ok(worlds))
}

/// All of them on links of one kind.
pub fn on<const N: usize>(link: Link, contestants: [Contestant; N]) -> [(Contestant, Link); N] {
    contestants.map(|contestant| (contestant, link))
}

/// Values by contestant, one per round.
#[derive(Debug, Default)]
pub struct Rounds(BTreeMap<usize, Vec<f64>>);

impl Rounds {
    /// Lets every world take its turn in each of `rounds` rounds; the one that begins alternates.
    pub fn play(
        worlds: &[World],
        rounds: usize,
        settings: &Settings<'_>,
        mut turn: impl FnMut(usize, &World, usize) -> Outcome<f64>,
    ) -> Outcome<Self> {
        let mut values = Rounds::default();
        for round in 0..rounds {
            for step in 0..worlds.len() {
                let index = if round % 2 == 0 { step } else { worlds.len() - 1 - step };
                let world = &worlds[index];
                let name = world.contestant.name();
                (settings.progress)(&format!("round {} of {rounds}: {name}", round + 1));
                let value = turn(index, world, round).context(name)?;
                values.0.entry(index).or_default().push(value);
            }
        }
        Ok(values)
    }

    /// A contestant's values.
    pub fn of(&self, index: usize) -> &[f64] {
        self.0.get(&index).map_or(&[], Vec::as_slice)
    }

    /// The median of a contestant that is for the note alone, in words.
    pub fn beside(&self, index: usize, worlds: &[World]) -> String {
        format!("{} {:.0}", worlds[index].contestant.name(), median(self.of(index).to_vec()))
    }

    /// The first world's values against the best of the others'.
    pub fn result(&self, name: &str, unit: &str, better: Better, bar: f64, worlds: &[World]) -> Result {
        let middle = |index: &usize| median(self.of(*index).to_vec());
        let order = |a: &usize, b: &usize| middle(a).total_cmp(&middle(b));
        let peers = 1..worlds.len();
        let best = if better == Better::More { peers.max_by(order) } else { peers.min_by(order) };
        let best = best.unwrap_or(0);
        let others: Vec<String> = (1..worlds.len())
            .filter(|index| *index != best)
            .map(|index| format!("{} {:.0}", worlds[index].contestant.name(), middle(&index)))
            .collect();
        Result::of(name, unit, &worlds[best].contestant.name(), better, bar, self.of(0), self.of(best))
            .noting(others.join("; "))
    }
}
