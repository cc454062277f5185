//! Closed choices that are known by a name: on the command line, in paths, in tables.

/// Gives a type with `ALL` and `name()` its `Display` (padded where asked) and `FromStr`, whose error
/// lists the known names.
#[macro_export]
macro_rules! named {
    ($type:ident, $what:literal) => {
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl std::str::FromStr for $type {
            type Err = anyhow::Error;

            fn from_str(text: &str) -> anyhow::Result<Self> {
                let found = Self::ALL.into_iter().find(|known| known.name() == text);
                found.ok_or_else(|| {
                    let known = Self::ALL.map(Self::name).join(", ");
                    anyhow::anyhow!(concat!("unknown ", $what, " `{}`; known: {}"), text, known)
                })
            }
        }
    };
}

/// The names given, each once, or the default.
///
/// # Errors
/// When a name is unknown.
pub fn parse<T>(names: Option<&[String]>, default: &[T]) -> anyhow::Result<Vec<T>>
where
    T: std::str::FromStr<Err = anyhow::Error> + Copy + PartialEq,
{
    let Some(names) = names else { return Ok(default.to_vec()) };
    let mut parsed = Vec::new();
    for name in names {
        let value = name.parse()?;
        if !parsed.contains(&value) {
            parsed.push(value);
        }
    }
    Ok(parsed)
}
