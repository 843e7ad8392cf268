//! Applying profiles.

use crate::model::{Config, Devices};

/// Configuration and devices of an instance after its profiles have been applied in order and its own on top.
/// A device is replaced as a whole. Devices of type `none` stay, so that a reader sees what they take away.
pub(crate) fn expand<'a>(
    profiles: impl Iterator<Item = (&'a Config, &'a Devices)>,
    config: &'a Config,
    devices: &'a Devices,
) -> (Config, Devices) {
    let mut expanded = (Config::new(), Devices::new());
    for (config, devices) in profiles.chain(std::iter::once((config, devices))) {
        expanded.0.extend(config.iter().map(|(k, v)| (k.clone(), v.clone())));
        expanded.1.extend(devices.iter().map(|(k, v)| (k.clone(), v.clone())));
    }
    // An empty value unsets what a profile said.
    expanded.0.retain(|_, value| !value.is_empty());
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Config {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn the_last_word_counts() {
        let (first, second) = (config(&[("a", "1"), ("b", "1")]), config(&[("b", "2"), ("c", "2")]));
        let none = Devices::new();
        let own = config(&[("c", "3"), ("a", "")]);
        let (expanded, _) = expand([(&first, &none), (&second, &none)].into_iter(), &own, &none);
        assert_eq!(expanded, config(&[("b", "2"), ("c", "3")]));
    }

    #[test]
    fn a_device_is_replaced_as_a_whole() {
        let profile = Devices::from([("eth0".to_owned(), config(&[("type", "nic"), ("mtu", "9000")]))]);
        let own = Devices::from([("eth0".to_owned(), config(&[("type", "none")]))]);
        let empty = Config::new();
        let (_, devices) = expand([(&empty, &profile)].into_iter(), &empty, &own);
        assert_eq!(devices, own);
    }
}
