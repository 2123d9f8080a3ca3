//! What a person may be offered: which permission each form of the console needs, so that nobody is shown a button that
//! would be refused, and nobody fills in a form in vain. The API decides by itself; this follows it.

use super::{look::icon, shell::Viewer};
use crate::api::{Caller, Permission as P};
use maud::{Markup, html};

/// Forms by their address, with the permissions of which one is enough.
const ACTIONS: &[(&str, &[P])] = &[
    ("/sites/new", &[P::Network]),
    ("/sites/{id}/edit", &[P::Network]),
    ("/sites/{id}/remove", &[P::Network]),
    ("/sites/{id}/connect", &[P::EnrolConnectors]),
    ("/connectors/{id}/edit", &[P::Network]),
    ("/connectors/{id}/remove", &[P::Network]),
    ("/connectors/{id}/revoke", &[P::StrikeNetwork]),
    ("/connectors/{id}/restore", &[P::Network]),
    ("/resources/new", &[P::Network]),
    ("/resources/{id}/edit", &[P::Network]),
    ("/resources/{id}/remove", &[P::Network]),
    ("/policies/new", &[P::Policies]),
    ("/policies/{id}/edit", &[P::Policies]),
    ("/policies/{id}/remove", &[P::Policies]),
    ("/groups/new", &[P::Policies]),
    ("/groups/{id}/edit", &[P::Policies]),
    ("/groups/{id}/remove", &[P::Policies]),
    ("/groups/members/add", &[P::People]),
    ("/groups/{id}/members/remove", &[P::People]),
    ("/people/new", &[P::People]),
    ("/people/{id}/edit", &[P::People]),
    ("/people/{id}/remove", &[P::People]),
    ("/people/{id}/role", &[P::Roles]),
    ("/people/{id}/invite", &[P::People]),
    ("/people/{id}/end-sessions", &[P::People]),
    ("/people/{id}/revoke", &[P::StrikePeople]),
    ("/people/{id}/restore", &[P::People]),
    ("/service-accounts/new", &[P::People]),
    ("/service-accounts/{id}/edit", &[P::People]),
    ("/service-accounts/{id}/remove", &[P::People]),
    ("/service-accounts/{id}/revoke", &[P::StrikePeople]),
    ("/service-accounts/{id}/restore", &[P::People]),
    ("/devices/{id}/edit", &[P::Devices]),
    ("/devices/{id}/remove", &[P::Devices]),
    ("/devices/{id}/approve", &[P::Devices]),
    ("/devices/{id}/block", &[P::Devices]),
    ("/devices/{id}/archive", &[P::Devices]),
    ("/devices/{id}/revoke", &[P::StrikeDevices]),
    ("/devices/{id}/restore", &[P::Devices]),
    ("/pops/{id}/edit", &[P::Installation]),
    ("/pops/{id}/remove", &[P::Installation]),
    ("/pops/{id}/revoke", &[P::Installation]),
    ("/pops/{id}/restore", &[P::Installation]),
    ("/keys/device", &[P::EnrolDevices]),
    ("/keys/pop", &[P::Installation]),
    ("/keys/{id}/remove", &[P::EnrolDevices, P::EnrolConnectors, P::Installation]),
    ("/settings/providers/new", &[P::Ownership]),
    ("/settings/providers/{id}/edit", &[P::Ownership]),
    ("/settings/providers/{id}/remove", &[P::Ownership]),
    ("/settings/tokens", &[P::Tokens]),
    ("/settings/tokens/{id}/remove", &[P::Tokens]),
];

/// The address of every form; `/settings` is read and changed at one.
#[cfg(test)]
pub(super) fn forms() -> impl Iterator<Item = &'static str> {
    ACTIONS.iter().map(|(template, _)| *template).chain(["/settings"])
}

/// Whether an address is one that a template means.
fn is_at(template: &str, path: &str) -> bool {
    let (mut template, mut path) = (template.split('/'), path.split('/'));
    loop {
        match (template.next(), path.next()) {
            (None, None) => return true,
            (Some(part), Some(given)) if part == given || (part.starts_with('{') && !given.is_empty()) => {}
            _ => return false,
        }
    }
}

/// What an address needs; nothing when it is no form of these. What is named in full stands before what has a place for
/// an id: nobody's id is `new`.
fn needed(path: &str) -> Option<&'static [P]> {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let named = ACTIONS.iter().find(|(template, _)| *template == path);
    let found = named.or_else(|| ACTIONS.iter().find(|(template, _)| is_at(template, path)));
    found.map(|(_, needs)| *needs)
}

/// Whether somebody may use what an address leads to, as far as it is a form.
pub(super) fn offers(caller: &Caller, path: &str) -> bool {
    needed(path).is_none_or(|needs| needs.iter().any(|need| caller.may(*need)))
}

/// Refuses a form to whoever could only fill it in in vain, and says why.
pub(super) fn admit(caller: &Caller, path: &str) -> Result<(), String> {
    if offers(caller, path) {
        return Ok(());
    }
    let role = super::ask::role_name(caller);
    Err(format!("You are signed in with the role {role}, which does not do this."))
}

impl Viewer {
    /// Whether their role may use what an address leads to.
    pub(super) fn offers(&self, path: &str) -> bool {
        offers(&self.caller, path)
    }

    /// A button that is a link, if it leads to something that they may use.
    pub(super) fn link_button(&self, href: &str, sign: &'static str, text: &str) -> Markup {
        html! { @if self.offers(href) { a class="btn" href=(href) { (icon(sign)) (text) } } }
    }

    /// A link, or its words alone where somebody else has to do it.
    pub(super) fn link_or_words(&self, href: &str, words: &Markup) -> Markup {
        html! { @if self.offers(href) { a href=(href) { (words) } } @else { (words) } }
    }

    /// The same for what a page is mostly there for.
    pub(super) fn primary_link(&self, href: &str, sign: &'static str, text: &str) -> Markup {
        html! { @if self.offers(href) { a class="btn btn--primary" href=(href) { (icon(sign)) (text) } } }
    }

    /// The same for what takes something away; `what` names it where the button alone does not.
    pub(super) fn danger_link(&self, href: &str, text: &str, what: Option<&str>) -> Markup {
        html! {
            @if self.offers(href) {
                a class={ "btn btn--danger" @if what.is_some() { " btn--sm" } } href=(href) aria-label=[what.map(|what| format!("{text} {what}"))] { (icon("strike")) (text) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_by_its_template_and_what_is_named_in_full_comes_first() {
        assert_eq!(needed("/groups/members/add"), Some(&[P::People][..]));
        assert_eq!(needed("/groups/grp-1/members/remove"), Some(&[P::People][..]));
        assert_eq!(needed("/sites/site-1/edit?x=1"), Some(&[P::Network][..]));
        assert_eq!(needed("/resources/new"), Some(&[P::Network][..]));
        assert_eq!(
            (needed("/resources"), needed("/resources/res-1"), needed("/sites//edit")),
            (None, None, None)
        );
    }

    #[test]
    fn whatever_asks_for_a_fresh_sign_in_needs_a_permission_too() {
        // Settings are read and changed at one address; their page shows no button to who may not.
        for (template, _) in
            super::super::step_up::ASKED.iter().filter(|(template, _)| *template != "/settings")
        {
            assert!(ACTIONS.iter().any(|(known, _)| known == template), "{template}");
        }
    }
}
