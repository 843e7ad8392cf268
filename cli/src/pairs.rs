//! `key=value` arguments.

use std::{collections::BTreeMap, io::Read as _};

use anyhow::{Context as _, Result, bail};

/// Largest value read from standard input.
const MAX_STDIN: u64 = 16 << 20;

/// One `key=value`.
pub fn pair(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => bail!("`{text}` is not KEY=VALUE, as in `limits.cpu=2`"),
    }
}

/// `key=value` arguments as a map; the last of a key counts.
pub fn map<S: AsRef<str>>(arguments: &[S]) -> Result<BTreeMap<String, String>> {
    arguments.iter().map(|text| pair(text.as_ref())).collect()
}

/// The arguments of a `set` command: `key=value...`, or LXD's older `key value`. A value `-` is read from standard
/// input.
pub fn assignments(arguments: &[String]) -> Result<BTreeMap<String, String>> {
    let mut pairs = match arguments {
        [] => bail!("there is nothing to set: write KEY=VALUE, as in `limits.cpu=2`"),
        [key, value] if !key.contains('=') => BTreeMap::from([(key.clone(), value.clone())]),
        _ => map(arguments)?,
    };
    for value in pairs.values_mut().filter(|value| *value == "-") {
        value.clear();
        let input = std::io::stdin().lock().take(MAX_STDIN).read_to_string(value);
        input.context("cannot read the value from standard input")?;
    }
    Ok(pairs)
}

/// A device as `launch --device` takes it: `name,key=value,...`.
pub fn device(text: &str) -> Result<(String, BTreeMap<String, String>)> {
    let (name, options) = text.split_once(',').with_context(|| {
        format!("`{text}` is not a device: write NAME,KEY=VALUE[,KEY=VALUE], as in `root,size=20GiB`")
    })?;
    Ok((name.to_owned(), map(&options.split(',').collect::<Vec<_>>())?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn both_forms_of_set() {
        let expected = BTreeMap::from([("limits.cpu".to_owned(), "2".to_owned())]);
        assert_eq!(assignments(&strings(&["limits.cpu=2"])).unwrap(), expected);
        assert_eq!(assignments(&strings(&["limits.cpu", "2"])).unwrap(), expected);
        let value = assignments(&strings(&["user.x", "a=b"])).unwrap();
        assert_eq!(value["user.x"], "a=b");
        assert_eq!(assignments(&strings(&["a=1", "b=2"])).unwrap().len(), 2);
        for bad in [&[][..], &["a"], &["a", "b", "c"], &["=x"]] {
            assert!(assignments(&strings(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn devices() {
        let (name, options) = device("root,size=20GiB,pool=default").unwrap();
        assert_eq!((name.as_str(), options["size"].as_str()), ("root", "20GiB"));
        assert!(device("root").is_err() && device("root,x").is_err());
    }

    proptest! {
        #[test]
        fn values_are_kept_whole(key in "[a-z.]+", value in ".*") {
            let (got_key, got_value) = pair(&format!("{key}={value}")).unwrap();
            prop_assert_eq!((got_key, got_value), (key, value));
        }
    }
}
