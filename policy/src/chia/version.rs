//! Version numbers of software, as far as they can be compared.

use core::fmt;

/// The first three numbers of a version: `2.7.5` of `2.7.5rc1.dev3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub [u16; 3]);

impl Version {
    /// Reads a version; missing numbers are zero, and what follows the third is left out. `None` without a number at the
    /// start, or if one is beyond 65,535.
    pub fn parse(text: &str) -> Option<Version> {
        let text = text.trim();
        let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
        let mut numbers = [0; 3];
        for (at, part) in text.splitn(4, '.').take(3).enumerate() {
            let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            match part[..digits].parse() {
                Ok(number) => numbers[at] = number,
                Err(_) if at > 0 && digits == 0 => break,
                Err(_) => return None,
            }
            if digits < part.len() {
                break;
            }
        }
        Some(Version(numbers))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

#[cfg(test)]
mod tests {
    use super::Version;

    #[test]
    fn versions_that_peers_send() {
        let cases = [
            ("2.7.5", Some([2, 7, 5])),
            ("2.6.0rc3", Some([2, 6, 0])),
            ("2.5", Some([2, 5, 0])),
            ("v1.8.2.dev4", Some([1, 8, 2])),
            ("2.x", Some([2, 0, 0])),
            ("", None),
            ("unknown", None),
            ("99999.1", None),
        ];
        for (text, numbers) in cases {
            assert_eq!(Version::parse(text), numbers.map(Version), "{text}");
        }
        assert!(Version([2, 6, 0]) > Version([2, 5, 99]));
    }
}
