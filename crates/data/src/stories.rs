//! Short stories for children from a grammar of our own: a corpus that needs no file.
//!
//! In the manner of TinyStories (R. Eldan, Y. Li, arXiv 2305.07759): a few thousand words, names,
//! pronouns, things and places that are carried through. What decides a word often stands sentences
//! before it, out of reach of a short n-gram.

mod plots;
mod words;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::stream::{Purpose, stream};
use plots::{CLOSINGS, OPENINGS, PLOTS, SIGHTS};
use words::*;

/// Story `index` of `seed`, of 60 to 200 words, a function of the two alone.
///
/// ```
/// use conditioned_data::story;
///
/// assert_eq!(story(0, 7), story(0, 7));
/// assert_ne!(story(0, 7), story(0, 8));
/// ```
pub fn story(seed: u64, index: u64) -> String {
    let mut rng = stream(seed, 0, index as usize, Purpose::Story);
    let world = World::draw(&mut rng);
    let mut sentences = vec![pick(OPENINGS, &mut rng)];
    let plot = PLOTS[rng.random_range(0..PLOTS.len() as u32) as usize];
    let sight = rng.random_range(1..4u32) as usize;
    for (i, sentence) in plot.iter().enumerate() {
        match sentence.strip_prefix('?') {
            Some(optional) if rng.random::<bool>() => sentences.push(optional),
            Some(_) => {}
            None => sentences.push(sentence),
        }
        if i == sight && rng.random::<bool>() {
            sentences.push(pick(SIGHTS, &mut rng));
        }
    }
    if rng.random::<bool>() {
        sentences.push(pick(CLOSINGS, &mut rng));
    }
    let mut text = String::with_capacity(1024);
    let breaks = [1 + sentences.len() / 3, 1 + 2 * sentences.len() / 3];
    for (i, sentence) in sentences.into_iter().enumerate() {
        if i > 0 {
            text.push(if breaks.contains(&i) { '\n' } else { ' ' });
        }
        world.tell(sentence, &mut rng, &mut text);
    }
    text
}

/// Stories 0 to `count` - 1 of `seed`, as the documents of a corpus.
pub fn stories(seed: u64, count: u64) -> impl Iterator<Item = crate::Result<String>> + Clone {
    (0..count).map(move |index| Ok(story(seed, index)))
}

fn pick<'a>(words: &[&'a str], rng: &mut ChaCha8Rng) -> &'a str {
    words[rng.random_range(0..words.len() as u32) as usize]
}

/// The facts of one story.
struct World {
    hero: &'static str,
    kind: &'static str,
    girl: bool,
    friend: &'static str,
    fkind: &'static str,
    second: &'static str,
    elder: &'static str,
    nature: [&'static str; 2],
    look: &'static str,
    things: [&'static str; 2],
    places: [&'static str; 2],
    colour: &'static str,
    facts: [(&'static str, &'static str); 20],
}

impl World {
    fn draw(rng: &mut ChaCha8Rng) -> Self {
        let girl = rng.random();
        let (names, kind) = if girl { (&GIRLS, "girl") } else { (&BOYS, "boy") };
        let hero = pick(names, rng);
        let animals = two(&ANIMALS, rng);
        let third = other(&ANIMALS, &animals, rng);
        let kind = if rng.random_ratio(2, 5) { third } else { kind };
        let names: &[&str] = if rng.random() { &GIRLS } else { &BOYS };
        let elders = if rng.random() { &ELDERS_F } else { &ELDERS_M };
        let places = two(&PLACES, rng);
        let looks = if rng.random() { &COLOURS } else { &LOOKS };
        let mut fact = |name, words: &Words| (name, pick(words, rng));
        let facts = [
            fact("food", &FOODS),
            fact("weather", &WEATHERS),
            fact("day", &DAYS),
            fact("job", &JOBS),
            fact("material", &MATERIALS),
            fact("plant", &PLANTS),
            fact("skill", &SKILLS),
            fact("group", &GROUPS),
            fact("number", &NUMBERS),
            fact("fear", &FEARS),
            fact("party", &PARTIES),
            fact("small", &SMALL),
            fact("doing", &DOINGS),
            fact("move", &MOVES),
            fact("tree", &TREES),
            fact("feeling", &FEELINGS),
            fact("sound", &SOUNDS),
            fact("drink", &DRINKS),
            fact("game", &GAMES),
            fact("shape", &SHAPES),
        ];
        Self {
            friend: other(names, &[hero], rng),
            elder: pick(elders, rng),
            nature: two(&NATURES, rng),
            look: pick(looks, rng),
            things: two(&OBJECTS, rng),
            colour: pick(&COLOURS, rng),
            fkind: animals[0],
            second: animals[1],
            hero,
            kind,
            girl,
            places,
            facts,
        }
    }

    /// Writes a sentence, with its choices made and its slots filled.
    fn tell(&self, template: &str, rng: &mut ChaCha8Rng, out: &mut String) {
        let mut rest = template;
        while let Some(at) = rest.find(['[', '{']) {
            out.push_str(&rest[..at]);
            let (open, close) = if rest[at..].starts_with('[') { ('[', ']') } else { ('{', '}') };
            let Some(end) = rest[at..].find(close) else { break };
            let inner = &rest[at + open.len_utf8()..at + end];
            rest = &rest[at + end + close.len_utf8()..];
            if open == '[' {
                let choices: Vec<&str> = inner.split('|').collect();
                self.tell(pick(&choices, rng), rng, out);
            } else {
                self.fill(inner, rng, out);
            }
        }
        out.push_str(rest);
    }

    /// Writes a slot: an article if it asks for one, then the fact.
    fn fill(&self, slot: &str, rng: &mut ChaCha8Rng, out: &mut String) {
        let lower = slot.to_lowercase();
        let name = lower.strip_prefix("a ").or_else(|| lower.strip_prefix("an "));
        let mut text = self.fact(name.unwrap_or(&lower), rng);
        if name.is_some() {
            // No list has a word such as "hour" or "unicorn".
            let article = if text.starts_with(['a', 'e', 'i', 'o', 'u']) { "an " } else { "a " };
            text.insert_str(0, article);
        }
        let mut chars = text.chars();
        match chars.next() {
            Some(first) if slot.starts_with(char::is_uppercase) => {
                out.extend(first.to_uppercase());
                out.push_str(chars.as_str());
            }
            _ => out.push_str(&text),
        }
    }

    fn fact(&self, name: &str, rng: &mut ChaCha8Rng) -> String {
        let gendered = |she: &str, he: &str| if self.girl { she.into() } else { he.into() };
        let fixed = match name {
            "hero" => self.hero,
            "kind" => self.kind,
            "friend" => self.friend,
            "fkind" => self.fkind,
            "second" => self.second,
            "elder" => self.elder,
            "nature" => self.nature[0],
            "nature2" => self.nature[1],
            "thing" => self.things[0],
            "thing2" => self.things[1],
            "place" => self.places[0],
            "other" => self.places[1],
            "colour" => self.colour,
            "he" => return gendered("she", "he"),
            "him" => return gendered("her", "him"),
            "his" => return gendered("her", "his"),
            "object" => return format!("{} {}", self.look, self.things[0]),
            // How something is done is no fact: each time anew.
            "manner" => pick(&MANNERS, rng),
            "voice" => pick(&VOICES, rng),
            _ => self.facts.iter().find(|fact| fact.0 == name).map_or("{}", |fact| fact.1),
        };
        fixed.into()
    }
}

/// Two different words.
fn two(words: &[&'static str], rng: &mut ChaCha8Rng) -> [&'static str; 2] {
    let first = pick(words, rng);
    [first, other(words, &[first], rng)]
}

/// A word that is not among those taken.
fn other(words: &[&'static str], taken: &[&str], rng: &mut ChaCha8Rng) -> &'static str {
    loop {
        let word = pick(words, rng);
        if !taken.contains(&word) {
            return word;
        }
    }
}
