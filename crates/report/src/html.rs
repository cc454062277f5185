//! A report that is one HTML file: it asks for nothing beside it, and shows values under the pointer.

use std::path::Path;

use askama::Template;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::drawing::{Drawing, Hover, Rectangle};
use crate::error::{Error, Result, file, write};
use crate::grid::Grid;

/// A report.
pub struct Page {
    /// Its title.
    pub title: String,
    /// What was found, in one or two sentences.
    pub answer: String,
    /// The numbers; a click on a head sorts them. Its notes stand below it.
    pub table: Grid,
    /// The figures below it.
    pub figures: Vec<Plate>,
    /// What led to the numbers: configuration, environment, what was searched.
    pub sections: Vec<Section>,
}

/// A figure with its caption.
pub struct Plate {
    /// Below the figure.
    pub caption: String,
    /// The figure.
    pub drawing: Box<dyn Drawing>,
}

/// A part of the page below the figures.
#[derive(Debug, Clone, PartialEq)]
pub struct Section {
    /// Its heading.
    pub heading: String,
    /// What it holds.
    pub body: Body,
}

/// What a section holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// Text whose lines stay as they are.
    Text(String),
    /// A table.
    Table(Grid),
    /// A picture, which the page shows at once.
    Picture {
        /// A PNG file.
        png: Vec<u8>,
        /// What it shows, in words.
        text: String,
    },
}

impl Body {
    /// Whether its section is open from the start.
    fn is_open(&self) -> bool {
        matches!(self, Self::Picture { .. })
    }
}

/// A PNG file as an address that holds it.
fn address(png: &[u8]) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(png))
}

#[derive(Template)]
#[template(path = "page.html")]
struct View<'a> {
    page: &'a Page,
    figures: Vec<FigureView<'a>>,
    values: String,
    css: &'static str,
    script: &'static str,
}

/// A figure of the page: its SVG, of which each panel shows a part.
struct FigureView<'a> {
    index: usize,
    caption: &'a str,
    svg: String,
    panels: Vec<Part>,
    key: Part,
}

/// A part of a figure.
struct Part {
    title: String,
    view: String,
    width: f64,
}

impl Part {
    fn of(title: &str, [left, top, width, height]: Rectangle) -> Self {
        Self { title: title.to_string(), view: format!("{left} {top} {width} {height}"), width }
    }
}

impl<'a> FigureView<'a> {
    fn of(index: usize, plate: &'a Plate, hover: &Hover) -> Result<Self> {
        let name = format!("<svg id=\"figure-{index}\" ");
        let panels = hover.panels.iter().map(|panel| Part::of(&panel.title, panel.frame));
        Ok(Self {
            index,
            caption: &plate.caption,
            svg: plate.drawing.svg()?.replacen("<svg ", &name, 1),
            panels: panels.collect(),
            key: Part::of("", hover.key),
        })
    }
}

impl Page {
    /// The page as HTML.
    ///
    /// # Errors
    /// When a figure cannot be drawn, or a row of a table is longer or shorter than its head.
    pub fn render(&self) -> Result<String> {
        let more = self.sections.iter().filter_map(|section| match &section.body {
            Body::Table(table) => Some(table),
            Body::Text(_) | Body::Picture { .. } => None,
        });
        for table in [&self.table].into_iter().chain(more) {
            // Every script relies on it.
            table.csv()?;
        }
        let hovers: Vec<Hover> =
            self.figures.iter().map(|plate| plate.drawing.hover()).collect::<Result<_>>()?;
        let figures = self.figures.iter().zip(&hovers).enumerate();
        let figures = figures.map(|(index, (plate, hover))| FigureView::of(index, plate, hover));
        let values =
            serde_json::to_string(&hovers).map_err(|error| Error::Page(error.to_string()))?;
        let view = View {
            page: self,
            figures: figures.collect::<Result<_>>()?,
            // Inside a script element, the characters `</` and `<!` would end it.
            values: values.replace('<', "\\u003c"),
            css: include_str!("../templates/page.css"),
            script: include_str!("../templates/page.js"),
        };
        view.render().map_err(|error| Error::Page(error.to_string()))
    }

    /// Writes the page, whole or not at all.
    ///
    /// # Errors
    /// Those of [`Page::render`], and when the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        write(path, &self.render()?)
    }
}

/// Opens a file in the browser of the system, and does not wait for it.
///
/// # Errors
/// When the file does not exist, or the system has no program to open it.
pub fn open(path: &Path) -> Result<()> {
    let whole = path.canonicalize().map_err(file(path))?;
    open::that_detached(whole).map_err(file(path))
}
