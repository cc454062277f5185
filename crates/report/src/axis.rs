//! Axes: what range is shown, linear or logarithmic, and where its ticks stand.

use serde::Serialize;

/// What an axis shows: `low` at its left or lower end, `high` at the other, in units of the data.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Axis {
    /// Its name, beside the ticks.
    pub name: String,
    /// The value at the left or lower end.
    pub low: f64,
    /// The value at the right or upper end.
    pub high: f64,
    /// Whether equal distances are equal ratios.
    pub log: bool,
}

/// Where a tick stands, in drawn coordinates, and what is written at it.
pub(crate) type Tick = (f64, String);

impl Axis {
    /// Over the values that can be drawn, with a margin; where there are none, 0 to 1, or 1 to 10 of a
    /// logarithmic axis.
    pub(crate) fn over(name: &str, log: bool, values: impl Iterator<Item = f64>) -> Self {
        let mut axis = Self { name: name.to_string(), low: 0.0, high: 1.0, log };
        let drawn = values.filter_map(|value| axis.at(value));
        let (low, high) = drawn
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        let (low, high) = match (low > high, log) {
            (true, _) => (0.0, 1.0),
            (false, true) if low == high => (low - 0.5, high + 0.5),
            (false, false) if low == high => {
                let margin = if low == 0.0 { 1.0 } else { 0.1 * low.abs() };
                (low - margin, high + margin)
            }
            _ => (low - 0.04 * (high - low), high + 0.04 * (high - low)),
        };
        (axis.low, axis.high) = (axis.value(low), axis.value(high));
        axis
    }

    /// Where a value is drawn: its logarithm to the base 10, or itself; `None` where it cannot be drawn.
    /// (Values beyond 1e300, of a logarithmic axis beyond 1e250, cannot: an axis over them with its margins overflows.)
    pub(crate) fn at(&self, value: f64) -> Option<f64> {
        let (drawn, limit) = (self.drawn(value), if self.log { 250.0 } else { 1e300 });
        (drawn.is_finite() && drawn.abs() < limit).then_some(drawn)
    }

    fn drawn(&self, value: f64) -> f64 {
        if self.log { value.log10() } else { value }
    }

    /// The value that is drawn there.
    fn value(&self, drawn: f64) -> f64 {
        if self.log { 10f64.powf(drawn) } else { drawn }
    }

    /// Both ends, in drawn coordinates.
    pub(crate) fn ends(&self) -> (f64, f64) {
        (self.drawn(self.low), self.drawn(self.high))
    }

    /// About `most` ticks at round values; on a logarithmic axis at powers of ten, as far as there are two.
    pub(crate) fn ticks(&self, most: usize) -> Vec<Tick> {
        let (low, high) = self.ends();
        if !self.log {
            return linear((low, high), most, 0.0);
        }
        let (first, last) = (low.ceil() as i64, high.floor() as i64);
        if last > first {
            let stride = (last - first) as usize / most + 1;
            let plain = first >= -3 && last <= 4;
            let label = |k: i64| if plain { compact(10f64.powi(k as i32)) } else { power(k) };
            return (first..=last).step_by(stride).map(|k| (k as f64, label(k))).collect();
        }
        let few = (low.floor() as i64..=last)
            .flat_map(|k| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(k as i32)))
            .filter(|value| (low..=high).contains(&value.log10()));
        let few: Vec<f64> = few.collect();
        if few.len() > 1 {
            return few.into_iter().map(|value| (value.log10(), compact(value))).collect();
        }
        let ticks = linear((self.value(low), self.value(high)), most, 0.0);
        ticks.into_iter().filter_map(|(value, label)| Some((self.at(value)?, label))).collect()
    }

    /// Between powers of ten, where lines without a label stand.
    pub(crate) fn minor(&self) -> Vec<f64> {
        let (low, high) = self.ends();
        if !self.log || !(1.0..8.0).contains(&(high - low)) {
            return Vec::new();
        }
        (low.floor() as i64..=high.floor() as i64)
            .flat_map(|k| (2..10).map(move |digit| k as f64 + f64::from(digit).log10()))
            .filter(|drawn| (low..=high).contains(drawn))
            .collect()
    }
}

/// At most `most` + 1 ticks at multiples of 1, 2 or 5 times a power of ten that is not below `least`.
pub(crate) fn linear(ends: (f64, f64), most: usize, least: f64) -> Vec<Tick> {
    let (low, high) = (ends.0.min(ends.1), ends.0.max(ends.1));
    let rough = ((high - low) / most as f64).max(least);
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0].map(|digit| digit * power).into_iter().find(|s| *s >= 0.9 * rough);
    let step = step.unwrap_or(10.0 * power);
    let (first, last) = ((low / step).ceil(), (high / step).floor());
    if !(step > 0.0 && step.is_finite() && last - first <= 2.0 * most as f64) {
        return Vec::new();
    }
    let greatest = low.abs().max(high.abs());
    (0..=(last - first) as usize)
        .map(|i| (first + i as f64) * step)
        .map(|value| (value, number(value, step, greatest)))
        .collect()
}

/// A tick's value to the digits that its step needs.
fn number(value: f64, step: f64, greatest: f64) -> String {
    let digits = |of: f64| of.log10().floor();
    if (1e-4..1e6).contains(&greatest) && step >= 1e-5 {
        let decimals = (-digits(step * 1.001)).max(0.0) as usize;
        return format!("{value:.decimals$}");
    }
    if value == 0.0 {
        return "0".to_string();
    }
    let decimals = (digits(value.abs()) - digits(step * 1.001)).clamp(0.0, 12.0) as usize;
    format!("{value:.decimals$e}")
}

/// A number in few characters.
pub(crate) fn compact(value: f64) -> String {
    if value == 0.0 || (1e-3..1e5).contains(&value.abs()) {
        // Six significant digits, zeros at the end left out.
        return format!("{}", rounded(value));
    }
    format!("{:e}", rounded(value))
}

/// A number to six significant digits.
pub(crate) fn rounded(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

/// Ten to a power, `10⁻³`.
fn power(exponent: i64) -> String {
    let raised = |digit: char| match digit {
        '-' => '⁻',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        '4'..='9' => char::from_u32('⁴' as u32 + (digit as u32 - '4' as u32)).unwrap_or(digit),
        _ => '⁰',
    };
    format!("10{}", exponent.to_string().chars().map(raised).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(ticks: &[Tick]) -> Vec<&str> {
        ticks.iter().map(|tick| tick.1.as_str()).collect()
    }

    #[test]
    fn ticks_stand_at_round_values() {
        let axis = |log, values: &[f64]| Axis::over("x", log, values.iter().copied());
        assert_eq!(
            labels(&axis(false, &[0.0, 1000.0]).ticks(5)),
            ["0", "200", "400", "600", "800", "1000"]
        );
        assert_eq!(
            labels(&axis(false, &[0.1, 0.3]).ticks(4)),
            ["0.10", "0.15", "0.20", "0.25", "0.30"]
        );
        assert_eq!(labels(&axis(true, &[0.1, 100.0]).ticks(6)), ["0.1", "1", "10", "100"]);
        assert_eq!(labels(&axis(true, &[1e-9, 1e-7]).ticks(6)), ["10⁻⁹", "10⁻⁸", "10⁻⁷"]);
        assert_eq!(labels(&axis(true, &[3.0]).ticks(6)), ["1", "2", "5"]);
        assert_eq!(labels(&axis(true, &[3.0, 3.4]).ticks(4)), ["3.0", "3.1", "3.2", "3.3", "3.4"]);
        assert_eq!(labels(&linear((0.5, 3.5), 5, 1.0)), ["1", "2", "3"]);
    }

    #[test]
    fn every_axis_has_a_length_and_few_ticks() {
        let extreme = [0.0, -5.0, f64::NAN, f64::INFINITY, 1e-320, 1e299, -1e299, f64::MAX];
        for a in extreme {
            for b in extreme {
                for log in [false, true] {
                    let axis = Axis::over("x", log, [a, b].into_iter());
                    let (low, high) = axis.ends();
                    assert!(low < high, "{a} {b} {log}: {low} {high}");
                    assert!(axis.ticks(6).len() <= 13 && axis.minor().len() < 80, "{a} {b} {log}");
                }
            }
        }
    }
}
