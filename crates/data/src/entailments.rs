//! Pairs of sentences in which who did it to whom decides: a task of two texts that needs no file.
//!
//! The premise tells who (A) did what to whom (B), and perhaps where: "the fox chased the owl in the
//! park." The hypothesis tells the same or, as often, the same with A and B exchanged; in one case of
//! three in the passive voice, in one of two with the other word of a fixed pair of synonyms: "the owl
//! was pursued by the fox." follows, "the owl pursued the fox." does not. Exchanging the two changes
//! neither the words of a sentence nor how often each of them occurs, and voice and synonym are drawn
//! without a look at the label: bags of words, of both sentences together or of each, say nothing about
//! it. A model must tell who acts in each sentence.

use std::ops::Range;

use rand::Rng;

use crate::permutation::Permutation;
use crate::stream::{Purpose, stream};
use crate::{Error, Labels, Result, Text, Texts};

const ACTORS: [&str; 24] = [
    "fox", "owl", "bear", "wolf", "goat", "duck", "horse", "sheep", "mouse", "lion", "tiger",
    "rabbit", "farmer", "baker", "doctor", "teacher", "sailor", "singer", "painter", "pilot",
    "king", "queen", "boy", "girl",
];
/// Past and participle at once; two words for each deed.
const DEEDS: [[&str; 2]; 12] = [
    ["chased", "pursued"],
    ["helped", "aided"],
    ["watched", "observed"],
    ["pushed", "shoved"],
    ["pulled", "dragged"],
    ["scared", "frightened"],
    ["found", "discovered"],
    ["warned", "alerted"],
    ["hugged", "embraced"],
    ["tricked", "fooled"],
    ["greeted", "welcomed"],
    ["rescued", "saved"],
];
const PLACES: [&str; 8] = [
    "",
    " in the park",
    " in the garden",
    " at the lake",
    " at the market",
    " on the hill",
    " near the bridge",
    " behind the barn",
];

/// Different premises of a seed: rows of [`entailments`].
pub const PREMISES: usize = 24 * 23 * 24 * 8;

/// What a premise tells.
struct Event {
    actor: &'static str,
    other: &'static str,
    deed: [&'static str; 2],
    /// Which of the two words.
    word: usize,
    place: &'static str,
}

impl Event {
    /// Event `index` of [`PREMISES`]; all of them differ.
    fn of(index: usize) -> Self {
        let mut rest = index;
        let mut digit = |base: usize| {
            let digit = rest % base;
            rest /= base;
            digit
        };
        let (deed, word, place) = (digit(DEEDS.len()), digit(2), digit(PLACES.len()));
        let actor = digit(ACTORS.len());
        // Any but the actor.
        let other = (actor + 1 + digit(ACTORS.len() - 1)) % ACTORS.len();
        Self {
            actor: ACTORS[actor],
            other: ACTORS[other],
            deed: DEEDS[deed],
            word,
            place: PLACES[place],
        }
    }

    fn premise(&self) -> String {
        let Self { actor, other, deed, word, place } = self;
        format!("the {actor} {} the {other}{place}.", deed[*word])
    }

    /// The event, or the one with both exchanged, told anew.
    fn hypothesis(&self, follows: bool, rng: &mut impl Rng) -> String {
        let passive = rng.random_ratio(1, 3);
        let deed = self.deed[if rng.random() { self.word } else { 1 - self.word }];
        let (actor, other) =
            if follows { (self.actor, self.other) } else { (self.other, self.actor) };
        if passive {
            format!("the {other} was {deed} by the {actor}.")
        } else {
            format!("the {actor} {deed} the {other}.")
        }
    }
}

/// Rows `rows` of the pairs of `seed`: premise, hypothesis, and whether it follows.
///
/// The classes are "entailment" and "not_entailment", as those of RTE. Each premise occurs once among
/// the [`PREMISES`] rows of a seed, so disjoint ranges are a training and a dev set. Of rows 2i and
/// 2i + 1 one follows. A row is a function of (seed, its number) alone.
///
/// ```
/// use conditioned_data::entailments;
///
/// let (train, dev) = (entailments(0, 0..2000)?, entailments(0, 2000..2200)?);
/// assert_eq!((train.len(), dev.len()), (2000, 200));
/// assert_eq!(train.rows().iter().filter(|row| row.label == 0.0).count(), 1000);
/// # Ok::<(), conditioned_data::Error>(())
/// ```
///
/// # Errors
/// When `rows` is empty or goes beyond [`PREMISES`].
pub fn entailments(seed: u64, rows: Range<usize>) -> Result<Texts> {
    let events = events(seed, rows.clone())?;
    let texts = events.zip(rows.clone()).map(|(event, index)| {
        let mut rng = stream(seed, 0, index / 2, Purpose::Truth);
        let follows = rng.random::<bool>() == (index % 2 == 0);
        let mut rng = stream(seed, 0, index, Purpose::Telling);
        Text {
            text: event.premise(),
            second: Some(event.hypothesis(follows, &mut rng)),
            label: if follows { 0.0 } else { 1.0 },
        }
    });
    let labels = Labels::Classes(vec!["entailment".into(), "not_entailment".into()]);
    let name = format!("entailments {}..{} of seed {seed}", rows.start, rows.end);
    Texts::new(name, labels, texts.collect())
}

/// The premises of rows `rows`, each with a sentence that follows from it, as documents: a corpus to
/// learn the words and the two voices from. Of a row of a dev set they would tell the answer: take rows that
/// are in no set.
///
/// # Errors
/// Of an item, the only one: when `rows` goes beyond [`PREMISES`].
pub fn premises(seed: u64, rows: Range<usize>) -> impl Iterator<Item = Result<String>> {
    let (events, error) = match events(seed, rows.clone()) {
        Ok(events) => (Some(events), None),
        Err(error) => (None, Some(Err(error))),
    };
    let told = events.into_iter().flatten().zip(rows).map(move |(event, index)| {
        // Another epoch than that of the hypotheses: another telling.
        let mut rng = stream(seed, 1, index, Purpose::Telling);
        Ok(format!("{} {}", event.premise(), event.hypothesis(true, &mut rng)))
    });
    error.into_iter().chain(told)
}

fn events(seed: u64, rows: Range<usize>) -> Result<impl Iterator<Item = Event>> {
    if rows.end > PREMISES {
        let expected = format!("expected an end of at most {PREMISES}");
        return Err(Error::config("rows", format!("{rows:?}"), expected));
    }
    let order = Permutation::new(PREMISES, &mut stream(seed, 0, 0, Purpose::Premise));
    Ok(rows.map(move |index| Event::of(order.at(index))))
}
