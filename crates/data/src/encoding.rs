//! [`Encoded`]: a text or a pair of texts as BERT reads it.

use crate::{Error, Result, Tokenizer};

pub(crate) const CLS: &str = "[CLS]";
pub(crate) const SEP: &str = "[SEP]";
pub(crate) const MASK: &str = "[MASK]";
pub(crate) const PAD: &str = "[PAD]";

/// Ids of `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids, N of them.
    pub ids: Vec<u32>,
    /// 0 up to the first `[SEP]`, 1 after it, N of them.
    pub types: Vec<u32>,
    /// Whether tokens were left out.
    pub truncated: bool,
}

impl Tokenizer {
    /// Id of `[CLS]`, before a text.
    pub fn cls(&self) -> Option<u32> {
        self.special_id("cls_token")
    }

    /// Id of `[SEP]`, after a text.
    pub fn sep(&self) -> Option<u32> {
        self.special_id("sep_token")
    }

    /// Id of `[MASK]`, in the place of a token that a model shall tell.
    pub fn mask(&self) -> Option<u32> {
        self.special_id("mask_token")
    }

    /// Id of `[PAD]`, after the end of a text that is shorter than others.
    pub fn pad(&self) -> Option<u32> {
        self.special_id("pad_token")
    }

    /// Encodes a text, or a pair, in at most `max_length` tokens, the special ones included.
    ///
    /// What is too much is taken from the end (or the start, see [`truncates_left`](Self::truncates_left)) of the longer text, and once they are equally long from
    /// both, as `truncation=True` of `transformers` does. The name of a special token inside a text is
    /// text.
    ///
    /// ```
    /// use conditioned_data::{Tokenizer, premises};
    ///
    /// let tokenizer = Tokenizer::train_wordpiece(premises(0, 0..3000), 251)?;
    /// let pair = tokenizer.encode_pair("The fox helped the owl.", Some("The owl was helped."), 12)?;
    /// let text = "[CLS] the fox helped the owl [SEP] the owl was helped [SEP]";
    /// assert_eq!(tokenizer.decode(&pair.ids)?, text);
    /// assert_eq!(pair.types, [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1]);
    /// assert!(pair.truncated);
    /// # Ok::<(), conditioned_data::Error>(())
    /// ```
    ///
    /// # Errors
    /// When the tokenizer has no `[CLS]` or no `[SEP]`, when `max_length` does not leave a token for each
    /// text, or as [`encode`](Self::encode).
    pub fn encode_pair(
        &self,
        text: &str,
        second: Option<&str>,
        max_length: usize,
    ) -> Result<Encoded> {
        let (cls, sep) = (self.need("cls_token")?, self.need("sep_token")?);
        let (texts, special) = if second.is_some() { (2, 3) } else { (1, 2) };
        if max_length < texts + special {
            let expected = format!("expected at least {}: a token of each text", texts + special);
            return Err(Error::config("max_length", max_length, expected));
        }
        let mut first = self.encode(text)?;
        let mut other = second.map_or_else(|| Ok(Vec::new()), |second| self.encode(second))?;
        let all = first.len() + other.len();
        let (n, m) = kept(first.len(), other.len(), max_length - special);
        for (ids, kept) in [(&mut first, n), (&mut other, m)] {
            match self.truncates_left() {
                true => drop(ids.drain(..ids.len() - kept)),
                false => ids.truncate(kept),
            }
        }
        let ids = [&[cls], first.as_slice(), &[sep]].concat();
        let mut encoded = Encoded { types: vec![0; ids.len()], ids, truncated: n + m < all };
        if second.is_some() {
            encoded.ids.extend(other);
            encoded.ids.push(sep);
            encoded.types.resize(encoded.ids.len(), 1);
        }
        Ok(encoded)
    }
}

/// How many of `first` and `second` tokens stay in `room`: the longer one gives first; where both must
/// give, the longer one, of equals the second, keeps an odd one.
fn kept(first: usize, second: usize, room: usize) -> (usize, usize) {
    if first + second <= room {
        return (first, second);
    }
    let (short, _) = if first > second { (second, first) } else { (first, second) };
    let half = room / 2;
    let (short, long) = if short <= half { (short, room - short) } else { (half, room - half) };
    if first > second { (long, short) } else { (short, long) }
}

#[cfg(test)]
mod tests {
    use super::kept;

    #[test]
    fn the_longer_text_gives_first() {
        assert_eq!(kept(3, 4, 7), (3, 4));
        assert_eq!(kept(10, 4, 7), (4, 3));
        assert_eq!(kept(10, 2, 7), (5, 2));
        assert_eq!(kept(2, 10, 7), (2, 5));
        assert_eq!(kept(5, 5, 7), (3, 4));
        assert_eq!(kept(0, 9, 7), (0, 7));
        assert_eq!(kept(9, 0, 7), (7, 0));
    }
}
