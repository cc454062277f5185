//! `docs/ANSWER.md` and its figure.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Result, ensure};
use conditioned_report::forest::{Forest, Line, Panel, RGBColor};
use conditioned_report::statistics::Sample;
use experiments::arm::Arm;
use experiments::column::DASH;
use experiments::results::Finished;

use crate::cells::{CELLS, Cell, Outcome};
use crate::verdict::{Count, Gain, Question, Tested, Verdict, tested};

/// Cells that an answer needs.
const ENOUGH: usize = 8;

/// The finished cells, and what they say.
pub(crate) struct Page {
    cells: Vec<(Cell, Vec<Finished>)>,
    tested: Vec<Tested>,
}

impl Page {
    /// From the results of the cells.
    ///
    /// # Errors
    /// When there are none, or a file is damaged.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let mut cells = Vec::new();
        for cell in CELLS {
            if let Some(results) = cell.results(folder)? {
                cells.push((*cell, results));
            }
        }
        ensure!(
            !cells.is_empty(),
            "{}: no finished cell; `answer run` makes them",
            folder.display()
        );
        let tested = tested(&cells);
        Ok(Self { cells, tested })
    }

    /// The page.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::from("# The answer\n\n");
        if let Some(claim) = self.claim() {
            text += &format!("{claim}\n\n");
        }
        text += "Compared by [the plan](PLAN.md), which was written before the runs and says at its end what was \
                 changed later; made by `answer render` from `experiments/answer/results`.\n\n";
        text += &self.state();
        text += "![Gains over the tuned baseline](gains.svg)\n\n";
        text += &self.verdicts();
        if self.cells.len() >= ENOUGH {
            text += &self.advice();
        }
        text += &self.table();
        text += LIMITS;
        text
    }

    /// What it comes to, where there are cells enough.
    pub(crate) fn claim(&self) -> Option<String> {
        let count = |question| Count::of(question, &self.tested);
        let [per_sequence, pooled, muon] =
            [Question::PerSequence, Question::Pooled, Question::Muon].map(count);
        let claim = match (muon.verdict(), per_sequence.verdict()) {
            (Verdict::Yes, Verdict::No) => "Condition the updates, not the tokens",
            (Verdict::Yes, _) => "Condition the updates; conditioned tokens pay in some cases",
            (_, Verdict::Yes) => "Condition the tokens",
            _ => "Neither conditioned tokens nor conditioned updates pay everywhere",
        };
        let told = |Count { better, worse, cells }| {
            format!(
                "better in {} of {cells} cells and worse in {}",
                none_or(better),
                none_or(worse)
            )
        };
        (self.cells.len() >= ENOUGH).then(|| {
            format!(
                "**{claim}.** Small networks on small data, eight seeds, every arm searched alike, against a baseline \
                 that is tuned as hard: Muon, which moves each hidden matrix along the polar factor U Vᵀ of its \
                 momentum, is {}; the paper's conditioned tokens are {}; pooled tokens, our form of them, {}.",
                told(muon),
                told(per_sequence),
                told(pooled)
            )
        })
    }

    /// Which cells are there.
    fn state(&self) -> String {
        let (there, all) = (self.cells.len(), CELLS.len());
        let missing: Vec<&str> = CELLS
            .iter()
            .filter(|cell| !self.cells.iter().any(|(known, _)| known.name == cell.name))
            .map(|cell| cell.name)
            .collect();
        match there >= ENOUGH {
            true if missing.is_empty() => format!("All {all} cells are finished.\n\n"),
            true => {
                format!("{there} of {all} cells are finished; without {}.\n\n", missing.join(", "))
            }
            false => format!(
                "**Not an answer yet**: {there} of {all} cells are finished, and {ENOUGH} are needed; without {}. \
                 What follows is what those say.\n\n",
                missing.join(", ")
            ),
        }
    }

    /// A line for each question.
    pub(crate) fn verdicts(&self) -> String {
        let mut text = String::from(
            "| question | better | worse | cells | answer |\n| --- | --- | --- | --- | --- |\n",
        );
        for question in Question::ALL {
            let count @ Count { better, worse, cells } = Count::of(question, &self.tested);
            let answer = match count.verdict() {
                _ if self.cells.len() < ENOUGH => "open",
                Verdict::Yes => "**yes**",
                Verdict::No => "**no**",
                Verdict::Depends => "it depends",
            };
            let _ =
                writeln!(text, "| {} | {better} | {worse} | {cells} | {answer} |", question.text());
        }
        let _ = writeln!(
            text,
            "\nbetter, worse: cells where the paired difference to the tuned other arm, at equal steps, is told \
             from 0 at 5 % after Holm's correction over all {} comparisons. Yes: better in more than half of the \
             cells, worse in none. No: better in none, or worse in as many.\n",
            self.tested.len()
        );
        text
    }

    /// What a user should do, and what the claim of the paper comes to.
    fn advice(&self) -> String {
        let verdict = |question| Count::of(question, &self.tested).verdict();
        let updates = match verdict(Question::Muon) {
            Verdict::Yes => "**Train the hidden matrices by Muon** (`--arms muon`).",
            Verdict::No => "**Stay with AdamW**: Muon has not paid here.",
            Verdict::Depends => "**Try Muon for the hidden matrices** (`--arms muon`).",
        };
        let tokens = match (verdict(Question::PooledOnMuon), verdict(Question::Pooled)) {
            (Verdict::Yes, _) => "Add pooled tokens to it (`--arms muon+pooled`).",
            (Verdict::Depends, _) => "Pooled tokens add a little to it in some cells.",
            (Verdict::No, Verdict::No) => "Leave the tokens as they are.",
            (Verdict::No, _) => "Pooled tokens are for those who stay with AdamW.",
        };
        let paper = match verdict(Question::PerSequence) {
            Verdict::Yes => {
                "Conditioned embedded tokens, as the paper has them, beat a baseline that is tuned as hard."
            }
            Verdict::No => {
                "Against a baseline that is tuned as hard, the paper's conditioned tokens show no gain in these \
                 cells."
            }
            Verdict::Depends => {
                "Against a baseline that is tuned as hard, the paper's conditioned tokens gain in some of these \
                 cells, and not in others."
            }
        };
        let mut text = format!("## What to do\n\n{updates} {tokens}\n\n");
        let told = [
            ("Muon", Question::Muon),
            ("Pooled tokens by AdamW", Question::Pooled),
            ("Pooled tokens on top of Muon", Question::PooledOnMuon),
        ];
        for (what, question) in told {
            let _ = writeln!(
                text,
                "- **{what}**: {}. {}",
                self.told(question),
                self.equal_time(question)
            );
        }
        let _ = write!(text, "\n## What the paper's claim comes to\n\n{paper}\n\n");
        let told = [
            ("The paper's tokens", Question::PerSequence),
            ("A mere factor on all tokens", Question::Factor),
            ("Pooled tokens against that factor", Question::PooledOrFactor),
        ];
        for (what, question) in told {
            let _ = writeln!(text, "- **{what}**: {}.", self.told(question));
        }
        text + "\n"
    }

    /// In how many cells an arm is better and worse, and which they are.
    fn told(&self, question: Question) -> String {
        let Count { better, worse, cells } = Count::of(question, &self.tested);
        let which = |direction| {
            let own = self.tested.iter().filter(|tested| tested.question == question);
            let own = own.filter(|tested| tested.direction() == direction);
            let names = own.map(|Tested { cell, gain, .. }| {
                let (decimals, unit) = (cell.outcome.decimals(), cell.outcome.unit());
                format!("{} {:+.decimals$} {unit}", cell.label, gain.tuned.mean)
            });
            let names = names.collect::<Vec<_>>().join("; ");
            if names.is_empty() { names } else { format!(" ({names})") }
        };
        format!(
            "better in {} of {cells} cells{}, worse in {}{}",
            none_or(better),
            which(1),
            none_or(worse),
            which(-1)
        )
    }

    /// What the runs at equal time say, where their intervals leave out zero.
    fn equal_time(&self, question: Question) -> String {
        let own = self.tested.iter().filter(|tested| tested.question == question);
        let times: Vec<Sample> = own.filter_map(|tested| tested.gain.time).collect();
        let beyond = |sign: f64| {
            let told =
                |time: &&Sample| time.half_width().is_some_and(|half| sign * time.mean > half);
            times.iter().filter(told).count()
        };
        format!(
            "At equal time the uncorrected interval lies above zero in {} of {}, below in {}.",
            none_or(beyond(1.0)),
            times.len(),
            none_or(beyond(-1.0))
        )
    }

    /// Every comparison with its intervals.
    fn table(&self) -> String {
        let mut text = String::from(
            "## All comparisons\n\nAbove 0 is better: percentage points of accuracy, or nats of loss. Mean, 95 % \
             interval, number of seeds; p after Holm's correction.\n\n\
             | comparison | cell | tuned, equal steps | p | tuned, equal time | published tables |\n\
             | --- | --- | --- | --- | --- | --- |\n",
        );
        for tested in &self.tested {
            let Tested { question, cell, gain: Gain { tuned, time, published }, p } = tested;
            let (arm, other) = question.arms(cell);
            let decimals = cell.outcome.decimals();
            let show = |sample: &Option<Sample>| {
                sample.map_or(DASH.to_string(), |sample| sample.difference(decimals))
            };
            let told = tuned.difference(decimals);
            let told = if tested.direction() == 0 { told } else { format!("**{told}**") };
            let p = if *p < 0.001 { "< 0.001".to_string() } else { format!("{p:.3}") };
            let _ = writeln!(
                text,
                "| {arm} – {other} | {} | {told} | {p} | {} | {} |",
                cell.label,
                show(time),
                show(published)
            );
        }
        text += "\nWhat every arm was given in its search, and where its best lies: `search.md` of each cell.\n\n";
        text
    }

    /// The gains of all arms over the baseline.
    pub(crate) fn figure(&self) -> Result<Forest> {
        // Okabe & Ito 2008: they stay apart for the colour-blind.
        let arms = [
            (Question::PerSequence, "the paper: per-sequence", RGBColor(213, 94, 0)),
            (Question::Pooled, "pooled", RGBColor(0, 114, 178)),
            (Question::Factor, "factor", RGBColor(105, 105, 105)),
            (Question::Muon, "muon", RGBColor(0, 158, 115)),
            (Question::PooledOnMuon, "muon+pooled", RGBColor(204, 121, 167)),
        ];
        let panel = |outcome: Outcome, heading: &str, unit: &str| {
            let mut lines = Vec::new();
            for (cell, results) in self.cells.iter().filter(|(cell, _)| cell.outcome == outcome) {
                for (question, name, colour) in arms {
                    // All against the baseline.
                    let gain = Gain::of(cell, results, (question.arms(cell).0, Arm::BASELINE));
                    let Some(Gain { tuned, time: Some(time), .. }) = gain else { continue };
                    let (case, name) = (cell.label.to_string(), name.to_string());
                    lines.push(Line { case, name, colour, marks: [time, tuned] });
                }
            }
            (!lines.is_empty()).then(|| Panel {
                heading: heading.to_string(),
                unit: unit.to_string(),
                axis: axis(&lines),
                lines,
            })
        };
        let panels = [
            panel(
                Outcome::Accuracy,
                "Accuracy",
                "gain in accuracy on test data, percentage points",
            ),
            panel(Outcome::Loss, "Loss", "fall of the loss on test data, nats"),
        ];
        Ok(Forest {
            title: "What conditioned tokens and conditioned updates gain".to_string(),
            subtitle: "Difference to the tuned baseline, seed by seed, with its 95 % interval"
                .to_string(),
            marks: ["equal time".to_string(), "equal steps".to_string()],
            panels: panels.into_iter().flatten().collect(),
        })
    }
}

/// A count in a sentence.
fn none_or(count: usize) -> String {
    if count == 0 { "none".to_string() } else { count.to_string() }
}

/// An axis that holds all intervals: its ends, the step of its ticks, and their decimals.
fn axis(lines: &[Line]) -> (f64, f64, f64, usize) {
    let ends = lines.iter().flat_map(|line| line.marks).flat_map(|sample| {
        let half = sample.half_width().unwrap_or(0.0);
        [sample.mean - half, sample.mean + half]
    });
    let (low, high) = ends.fold((0f64, 0f64), |(low, high), end| (low.min(end), high.max(end)));
    let span = (high - low).max(f64::MIN_POSITIVE);
    let power = (span / 6.0).log10().floor();
    let fits = |k: &f64| span / (k * 10f64.powf(power)) <= 6.0;
    let step = [1.0, 2.0, 5.0].into_iter().find(fits).unwrap_or(10.0) * 10f64.powf(power);
    let decimals = (-step.log10().floor()).max(0.0) as usize;
    ((low / step).floor() * step, (high / step).ceil() * step, step, decimals)
}

/// What these cells cannot say.
const LIMITS: &str = "## Limits\n\n\
    Networks of 85,000 to 274,000 parameters, data of minutes: nothing here says what is left of an effect at a \
    hundred times the size or the steps. With eight seeds and some fifty comparisons the corrected test tells an \
    effect from 0 that is twice the spread of the paired differences: smaller ones show in the intervals alone. \
    Equal time is that of this implementation on one processor, at settings that were tuned at equal steps: \
    Muon's cost is that of the matrices alone, so it weighs more next to a step of few tokens than next to one \
    of many. A ramp kept its steps in the runs at equal time, of which it took 11 to 15 % where 10 were meant; \
    runs of today scale it.\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_holds_its_intervals_with_few_ticks() {
        let line = |values: &[f64]| {
            let sample = Sample::of(values).unwrap();
            let (case, name) = (String::new(), String::new());
            Line { case, name, colour: RGBColor(0, 0, 0), marks: [sample, sample] }
        };
        for (values, wanted) in [
            (&[-1.0, -2.0, -3.0][..], (-5.0, 1.0, 1.0, 0)),
            (&[0.01, 0.02, 0.03], (-0.005, 0.045, 0.01, 2)),
            (&[30.0, 31.0, 32.0], (0.0, 40.0, 10.0, 0)),
        ] {
            let (low, high, step, decimals) = axis(&[line(values)]);
            let half = Sample::of(values).unwrap().half_width().unwrap();
            let mean = Sample::of(values).unwrap().mean;
            assert!(low <= mean - half && high >= mean + half, "{values:?}: {low} {high}");
            assert!(
                (high - low) / step < 9.0 && (step, decimals) == (wanted.2, wanted.3),
                "{step}"
            );
        }
    }
}
