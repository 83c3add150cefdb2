//! The environment variables with which the suites configure a program.

use std::{collections::HashMap, env, str::FromStr};

use crate::error::Error;

/// Environment variables. A variable that is empty or `null`, as the suites write it, is not set.
pub struct Environment(HashMap<String, String>);

impl Environment {
    pub fn of_process() -> Self {
        env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.get(name)?.trim();
        (!value.is_empty() && value != "null").then_some(value)
    }

    /// A required variable.
    pub fn required<T: FromStr>(
        &self,
        name: &'static str,
        expected: &'static str,
    ) -> Result<T, Error> {
        let value = self.get(name).ok_or(Error::Missing(name))?;
        parse(name, expected, value)
    }

    /// An optional variable.
    pub fn optional<T: FromStr>(
        &self,
        name: &'static str,
        expected: &'static str,
        default: T,
    ) -> Result<T, Error> {
        self.get(name)
            .map_or(Ok(default), |value| parse(name, expected, value))
    }

    /// A variable for which only one value is supported.
    pub fn only(&self, name: &'static str, expected: &'static str) -> Result<(), Error> {
        match self.get(name) {
            Some(value) if value == expected => Ok(()),
            Some(value) => Err(Error::Invalid {
                name,
                expected,
                value: value.to_owned(),
            }),
            None => Err(Error::Missing(name)),
        }
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        Self(
            variables
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }
}

fn parse<T: FromStr>(name: &'static str, expected: &'static str, value: &str) -> Result<T, Error> {
    value.parse().map_err(|_| Error::Invalid {
        name,
        expected,
        value: value.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_and_nothing_are_not_set() {
        let environment = Environment::from_iter([("A", "null"), ("B", ""), ("C", "7")]);
        for (name, expected) in [("A", 10), ("B", 10), ("C", 7), ("D", 10)] {
            let value = environment.optional(name, "a number", 10).unwrap();
            assert_eq!(value, expected, "{name}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let environment = Environment::from_iter([("TRANSPORT", "tcp"), ("IS_DIALER", "maybe")]);
        let errors = [
            environment.only("TRANSPORT", "quic-v1").unwrap_err(),
            environment
                .required::<bool>("IS_DIALER", "true or false")
                .unwrap_err(),
            environment
                .required::<String>("TEST_KEY", "a key")
                .unwrap_err(),
        ];
        assert_eq!(
            errors.map(|error| error.to_string()),
            [
                "TRANSPORT has to be quic-v1, not tcp",
                "IS_DIALER has to be true or false, not maybe",
                "TEST_KEY is not set",
            ]
        );
    }
}
