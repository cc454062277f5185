//! Reading and evaluating an expression of ListOps.

use super::ListOps;

/// Ids 1 to 4 are MIN, MAX, MED and SM.
pub(super) const OPERATORS: u32 = 4;
/// The end of a list.
pub(super) const CLOSE: u16 = 5;
/// The digit 0; the others follow.
pub(super) const DIGIT: u16 = 6;

type Result<T> = std::result::Result<T, String>;

/// The ids of the tokens of a text, whatever they mean together.
pub(crate) fn read(text: &str) -> Result<Vec<u16>> {
    let words = text.split_ascii_whitespace().filter(|word| !["(", ")"].contains(word));
    let id = |(i, word): (usize, &str)| {
        let word = if word == "X" { "]" } else { word };
        let found = ListOps::TOKENS.iter().position(|token| *token == word);
        found.map(|place| 1 + place as u16).ok_or_else(|| {
            let known = ListOps::TOKENS[..OPERATORS as usize].join(", ");
            let word: String = word.chars().take(20).collect();
            format!("token {i} is {word:?}, which is none of {known}, `]`, `X` and the digits")
        })
    };
    words.enumerate().map(id).collect()
}

/// The value of an expression.
pub(crate) fn value(tokens: &[u16]) -> Result<u32> {
    // Values of arguments, those of an inner list after those of the outer ones.
    let mut values: Vec<u32> = Vec::new();
    // Places of the operators that are not closed yet, and how many values there were before them.
    let mut open: Vec<(usize, usize)> = Vec::new();
    for (i, &id) in tokens.iter().enumerate() {
        if open.is_empty() && !values.is_empty() {
            return Err(format!("token {i} comes after the end of the expression"));
        }
        match id {
            1..CLOSE => open.push((i, values.len())),
            CLOSE => {
                let Some((place, start)) = open.pop() else {
                    return Err(format!("token {i} closes a bracket that no operator opens"));
                };
                let operator = tokens[place];
                let Some(value) = apply(operator, &mut values[start..]) else {
                    let name = ListOps::TOKENS[usize::from(operator) - 1];
                    return Err(format!("{name} of token {place} has no argument up to token {i}"));
                };
                values.truncate(start);
                values.push(value);
            }
            DIGIT..=15 => values.push(u32::from(id - DIGIT)),
            _ => return Err(format!("token {i} has id {id}; tokens have ids 1 to 15")),
        }
    }
    if let Some((place, _)) = open.last() {
        return Err(format!("the bracket of token {place} is not closed"));
    }
    values.pop().ok_or_else(|| "no token; give a digit or an operator with arguments".into())
}

/// The value of an operator, `None` without arguments.
fn apply(operator: u16, arguments: &mut [u32]) -> Option<u32> {
    match operator {
        1 => arguments.iter().copied().min(),
        2 => arguments.iter().copied().max(),
        3 => {
            arguments.sort_unstable();
            let half = arguments.len() / 2;
            let upper = *arguments.get(half)?;
            Some(if arguments.len() % 2 == 1 { upper } else { (arguments[half - 1] + upper) / 2 })
        }
        _ => (!arguments.is_empty()).then(|| arguments.iter().sum::<u32>() % 10),
    }
}
