//! What the simulation tells of one path: `path rate=100,rtt=63 cpu=0.7 flow goodput=93.1 …`.

use std::collections::BTreeMap;

#[derive(Debug)]
pub struct Told {
    asked: BTreeMap<String, f64>,
    /// Of the first flow, and of all together.
    values: BTreeMap<String, String>,
    /// Of each flow.
    flows: Vec<BTreeMap<String, String>>,
    deaths: usize,
}

impl Told {
    /// `None` if the line is about something else.
    pub fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.split_once("path ")?;
        let (asked, rest) = rest.split_once(' ')?;
        let asked = asked
            .split(',')
            .map(|part| {
                let (name, value) = part.split_once('=')?;
                Some((name.to_owned(), value.parse().ok()?))
            })
            .collect::<Option<_>>()?;
        let mut values = BTreeMap::new();
        let mut deaths = 0;
        let words = |text: &str| -> BTreeMap<String, String> {
            let words = text.split(' ').filter_map(|word| word.split_once('='));
            words
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect()
        };
        let flows = rest.split("flow ").skip(1).map(words).collect();
        for (name, value) in rest.split(' ').filter_map(|word| word.split_once('=')) {
            deaths += usize::from(name == "died" && value != "-");
            values
                .entry(name.to_owned())
                .or_insert_with(|| value.to_owned());
        }
        values.contains_key("goodput").then_some(Self {
            asked,
            values,
            flows,
            deaths,
        })
    }

    /// Part of what was asked.
    pub fn asked(&self, name: &str) -> f64 {
        self.asked.get(name).copied().unwrap_or(f64::NAN)
    }

    /// Whether both were asked for the same on all of these axes.
    pub fn agrees(&self, other: &Self, axes: &[&str]) -> bool {
        axes.iter()
            .all(|axis| self.asked(axis) == other.asked(axis))
    }

    pub fn text(&self, name: &str) -> &str {
        self.values.get(name).map_or("", String::as_str)
    }

    pub fn number(&self, name: &str) -> f64 {
        self.text(name).parse().unwrap_or(f64::NAN)
    }

    /// A number of each flow.
    pub fn of_each<'a>(&'a self, name: &'a str) -> impl Iterator<Item = f64> + 'a {
        let texts = self.flows.iter().map(move |flow| flow.get(name));
        texts.map(|text| text.and_then(|text| text.parse().ok()).unwrap_or(f64::NAN))
    }

    pub fn is_dead(&self) -> bool {
        self.deaths > 0
    }

    /// Whether this is about the path that was asked for, in whatever order.
    pub fn is_about(&self, path: &str) -> bool {
        path.split(',').all(|part| {
            part.split_once('=').is_some_and(|(name, value)| {
                value
                    .parse::<f64>()
                    .is_ok_and(|value| value == self.asked(name))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_told_from_others_and_read() {
        assert!(Told::parse("test proto::tests::wan ... ok").is_none());
        assert!(Told::parse("path rate=1,rtt=x cpu=1 flow goodput=1").is_none());
        // The first line of a test begins with its name.
        let line = "test a ... path rate=20,rtt=10,seed=2 cpu=0.71 jain=1.000 flow goodput=18.5 died=- \
                    why=- flow goodput=3 died=0.5 why=too_many";
        let told = Told::parse(line).unwrap_or_else(|| panic!("{line}"));
        assert_eq!((told.asked("rtt"), told.number("goodput")), (10.0, 18.5));
        assert!(told.is_dead());
        assert_eq!(told.of_each("goodput").collect::<Vec<_>>(), [18.5, 3.0]);
        assert!(told.is_about("seed=2,rate=20") && !told.is_about("rate=20,seed=1"));
        assert!(told.number("t10").is_nan());
    }
}
