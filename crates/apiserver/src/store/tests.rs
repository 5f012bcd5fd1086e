use serde_json::json;

use super::*;

struct World {
    store: Store,
}

impl World {
    fn new(history: usize) -> Self {
        Self {
            store: Store::new(0, history),
        }
    }

    fn put(&mut self, name: &str, app: &str) -> Arc<Event> {
        self.change(name, app, false)
    }

    fn change(&mut self, name: &str, app: &str, delete: bool) -> Arc<Event> {
        let revision = self.store.revision() + 1;
        let object = Object::new(json!({"metadata": {
            "name": name, "labels": {"app": app}, "resourceVersion": revision.to_string()}}));
        let key = ("ns".to_owned(), name.to_owned());
        self.store.commit(Change {
            resource: "things".into(),
            key,
            object,
            delete,
            revision,
        })
    }

    fn names(
        &self,
        limit: usize,
        after: Option<&ObjectKey>,
        at: Option<u64>,
    ) -> (Vec<String>, Page) {
        let page = self
            .store
            .list("things", &Scope::default(), limit, after, at)
            .unwrap();
        (
            page.items
                .iter()
                .map(|o| o.value["metadata"]["name"].as_str().unwrap().to_owned())
                .collect(),
            page,
        )
    }
}

#[test]
fn pages_of_a_list_show_one_moment_though_objects_change_between_them() {
    let mut world = World::new(100);
    for name in ["a", "b", "c", "d"] {
        world.put(name, "x");
    }
    let (first, page) = world.names(2, None, None);
    assert_eq!(
        (first, page.remaining, page.revision),
        (vec!["a".into(), "b".into()], 2, 4)
    );
    world.change("c", "x", true);
    world.put("bb", "x");
    world.put("d", "y");
    let (second, rest) = world.names(2, page.more.as_ref(), Some(page.revision));
    assert_eq!(second, ["c", "d"]);
    assert_eq!(rest.items[1].value["metadata"]["labels"]["app"], "x");
    assert!(rest.more.is_none());
    assert_eq!(world.names(0, None, None).0, ["a", "b", "bb", "d"]);
}

#[test]
fn a_watch_that_fell_behind_the_history_is_gone() {
    let mut world = World::new(3);
    for _ in 0..5 {
        world.put("a", "x");
    }
    assert_eq!(world.store.since("things", 1).unwrap_err().code, 410);
    let revisions = world
        .store
        .since("things", 2)
        .unwrap()
        .iter()
        .map(|e| e.revision)
        .collect::<Vec<_>>();
    assert_eq!(revisions, [3, 4, 5]);
    assert!(world.store.since("things", 5).unwrap().is_empty());
    assert_eq!(world.store.since("things", 6).unwrap_err().code, 410);
    assert_eq!(
        world
            .store
            .list("things", &Scope::default(), 0, None, Some(1))
            .unwrap_err()
            .code,
        410
    );
    assert_eq!(
        world
            .store
            .list("things", &Scope::default(), 0, None, Some(9))
            .unwrap_err()
            .code,
        504
    );
}

#[test]
fn a_store_that_was_loaded_knows_no_history_before_it() {
    let store = Store::new(40, 10);
    assert_eq!(store.since("things", 39).unwrap_err().code, 410);
    assert!(store.since("things", 40).unwrap().is_empty());
}

#[test]
fn a_selector_turns_changes_into_arrivals_and_departures() {
    let mut world = World::new(100);
    let scope = Scope {
        namespace: Some("ns".into()),
        selector: Selector::parse("app=x", "").unwrap(),
    };
    let seen = |event: Arc<Event>| scope.see(&event);
    assert_eq!(seen(world.put("a", "other")), None);
    assert!(matches!(seen(world.put("a", "x")), Some(Seen::Added(_))));
    assert!(matches!(seen(world.put("a", "x")), Some(Seen::Modified(_))));
    let Some(Seen::Deleted(last)) = seen(world.put("a", "other")) else {
        panic!("not a departure")
    };
    assert_eq!(last.value["metadata"]["labels"]["app"], "x");
    assert_eq!(last.value["metadata"]["resourceVersion"], "4");
    assert_eq!(seen(world.change("a", "other", true)), None);
    world.put("b", "x");
    assert!(matches!(
        seen(world.change("b", "x", true)),
        Some(Seen::Deleted(_))
    ));
    let elsewhere = Scope {
        namespace: Some("other".into()),
        ..Scope::default()
    };
    assert_eq!(elsewhere.see(&world.put("a", "x")), None);
}

#[test]
fn large_objects_are_forgotten_before_many_of_them_fill_the_memory() {
    let mut store = Store::new(0, 1000);
    let text = "x".repeat(HISTORY_BYTES / 8);
    for revision in 1..=20 {
        let object = Object::new(json!({"metadata": {"name": "a"}, "data": text}));
        store.commit(Change {
            resource: "things".into(),
            key: ("ns".to_owned(), "a".to_owned()),
            object,
            delete: false,
            revision,
        });
    }
    let kept = &store.collections.get("things").unwrap().history;
    assert_eq!(kept.len(), 7);
    assert!(
        store
            .since("things", 19)
            .is_ok_and(|events| events.len() == 1)
    );
    assert!(
        store.since("things", 5).is_err(),
        "whoever is that far back lists again"
    );
}
