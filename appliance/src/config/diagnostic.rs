//! What is wrong with a configuration, shown the way a compiler shows it: file, line, column, field, expectation,
//! suggestion.

use std::fmt::Write;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// One thing that is wrong, or one warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Whether the configuration is refused because of it.
    pub fatal: bool,
    /// What is wrong.
    pub title: String,
    /// The place in the file, in bytes.
    pub span: Range<usize>,
    /// What was expected there.
    pub label: String,
    /// Another place that belongs to it.
    pub context: Option<(Range<usize>, String)>,
    /// What to do.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error at `span`.
    pub fn error(span: Range<usize>, title: impl Into<String>, label: impl Into<String>) -> Self {
        Diagnostic { fatal: true, title: title.into(), span, label: label.into(), context: None, help: None }
    }

    /// A warning at `span`.
    pub fn warning(span: Range<usize>, title: impl Into<String>, label: impl Into<String>) -> Self {
        Diagnostic { fatal: false, ..Diagnostic::error(span, title, label) }
    }

    /// Adds advice.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds advice where there is some.
    #[must_use]
    pub fn maybe_help(mut self, help: Option<String>) -> Self {
        self.help = help.or(self.help);
        self
    }

    /// Points at a second place.
    #[must_use]
    pub fn context(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.context = Some((span, label.into()));
        self
    }
}

/// Everything that is wrong with one file, with the file's text to point into.
#[derive(Debug, Clone)]
pub struct Report {
    /// The file's name as the operator gave it.
    pub path: String,
    /// The file's text.
    pub text: String,
    /// What is wrong, in the order of the file.
    pub diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// Whether the file must be refused.
    pub fn is_fatal(&self) -> bool {
        self.diagnostics.iter().any(|diagnostic| diagnostic.fatal)
    }

    /// The report for a terminal (`colour`) or a file.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        for diagnostic in &self.diagnostics {
            let _ = writeln!(out, "{}\n", self.one(&renderer, diagnostic));
        }
        out
    }

    fn one(&self, renderer: &Renderer, diagnostic: &Diagnostic) -> String {
        let level = if diagnostic.fatal { Level::ERROR } else { Level::WARNING };
        let mut snippet = Snippet::source(self.text.as_str()).path(self.path.as_str()).annotation(
            AnnotationKind::Primary.span(self.clamp(&diagnostic.span)).label(diagnostic.label.as_str()),
        );
        if let Some((span, label)) = &diagnostic.context {
            snippet =
                snippet.annotation(AnnotationKind::Context.span(self.clamp(span)).label(label.as_str()));
        }
        let mut group = level.primary_title(diagnostic.title.as_str()).element(snippet);
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        renderer.render(&[group])
    }

    /// A span that lies within the text and on character boundaries, whatever the parser said.
    fn clamp(&self, span: &Range<usize>) -> Range<usize> {
        let floor = |mut at: usize| {
            at = at.min(self.text.len());
            while !self.text.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        let start = floor(span.start);
        start..floor(span.end).max(start)
    }
}

/// The entry of `known` that `word` was probably meant to be.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.into_iter().map(|candidate| (strsim::jaro_winkler(word, candidate), candidate));
    let best = scored.filter(|(score, _)| *score > 0.8).max_by(|a, b| a.0.total_cmp(&b.0));
    best.map(|(_, candidate)| candidate)
}
