//! A page is whole: it asks for nothing beside it, and what it shows cannot become markup.

use conditioned_report::grid::Grid;
use conditioned_report::html::{Body, Page, Plate, Section};

use crate::figures::{inequality, losses, spectra};

const HOSTILE: &str = "</script><script>alert(1)</script> & \"x\"";

/// The most that a page of a table may take: it is sent by mail.
const LARGEST: usize = 2 << 20;

fn page() -> Page {
    let table = Grid {
        title: HOSTILE.into(),
        columns: vec![("arm".into(), true), (HOSTILE.into(), false)],
        rows: vec![vec!["baseline".into(), HOSTILE.into()]],
        notes: vec![HOSTILE.into()],
    };
    let plate = |drawing| Plate { caption: HOSTILE.into(), drawing };
    let mut scatter = inequality();
    scatter.panels[0].groups[0].points[0].label = HOSTILE.into();
    let section = |body| Section { heading: HOSTILE.into(), body };
    Page {
        title: HOSTILE.into(),
        answer: HOSTILE.into(),
        table: table.clone(),
        figures: vec![
            plate(Box::new(losses(true))),
            plate(Box::new(scatter)),
            plate(Box::new(spectra())),
        ],
        sections: vec![section(Body::Text(HOSTILE.into())), section(Body::Table(table))],
    }
}

#[test]
fn text_stays_text_and_nothing_is_fetched() {
    let html = page().render().unwrap();
    assert!(!html.contains("<script>alert"), "text became a script");
    assert_eq!(html.matches("</script>").count(), 2, "the values and the script");
    // Names of XML, no addresses.
    let html = html.replace("http://www.w3.org/2000/svg", "");
    assert!(!html.contains("http://") && !html.contains("https://") && !html.contains("src="));
    assert!(html.len() < LARGEST);
    assert_eq!(page().render().unwrap(), page().render().unwrap());
}

#[test]
fn a_row_that_is_too_short_is_an_error() {
    let mut page = page();
    page.table.rows.push(vec!["alone".into()]);
    assert!(page.render().is_err());
}
