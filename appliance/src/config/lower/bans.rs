//! `[bans]`: where they are kept, whom they never concern, and how long the policy's last.

use std::time::Duration;

use super::super::{Bans, Diagnostic, file};
use super::Lowering;

impl Lowering<'_> {
    pub(super) fn bans(&mut self, file: file::Bans) -> Bans {
        let standard = Bans::default();
        let seconds = Duration::from_secs;
        if let Some(path) = file.file.as_ref().filter(|path| path.get_ref().as_os_str().is_empty()) {
            self.error(Diagnostic::error(path.span(), "the path is empty", "expected the path of a file"));
        }
        let first = self.period(file.first.as_ref(), seconds(60)..=seconds(86_400), standard.first);
        let longest =
            self.period(file.longest.as_ref(), seconds(60)..=seconds(31 * 86_400), standard.longest);
        if let Some(place) = file.longest.as_ref().filter(|_| longest < first) {
            self.error(Diagnostic::error(
                place.span(),
                "the longest ban is shorter than the first one",
                format!("expected {first:?} or more, as `first` says"),
            ));
        }
        let most = self.number(file.most.as_ref(), 1..=1_000_000, standard.most as i64);
        Bans {
            file: file.file.map(toml::Spanned::into_inner),
            policy: file.policy.unwrap_or(standard.policy),
            close: file.close.unwrap_or(standard.close),
            never: file.never.unwrap_or_default().into_iter().map(|network| network.0).collect(),
            first,
            longest,
            most: usize::try_from(most).unwrap_or(standard.most),
        }
    }
}
