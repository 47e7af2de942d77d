// Links that leave the frame, and charts that are fetched when the page is there.
"use strict";
(() => {
  // Airflow's frame may not navigate the page around it, but a link in that page may.
  const leave = (address) => {
    const link = window.parent.document.createElement("a");
    link.href = address;
    link.hidden = true;
    window.parent.document.body.append(link);
    link.click();
    link.remove();
  };

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-airflow]");
    if (!link || window.parent === window || event.button !== 0 || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    leave(link.href);
  });

  // What is chosen applies at once; without scripts there is a button. A date that is being typed is no date yet.
  document.addEventListener("change", ({target}) => {
    const form = target.form;
    if (form?.matches("[data-at-once]") && form.checkValidity()) form.requestSubmit();
  });

  const script = (address) => new Promise((resolve, reject) => {
    const element = document.createElement("script");
    element.src = address;
    element.onload = resolve;
    element.onerror = () => reject(new Error("the script that draws it could not be loaded"));
    document.head.append(element);
  });
  let drawing = null;

  const words = (title) => [title].flat().join("; ");

  const say = (figure, sentence, action) => {
    const status = figure.querySelector(".status");
    status.textContent = sentence;
    if (action) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = action.name;
      button.addEventListener("click", action.run, {once: true});
      status.append(" ", button);
    }
  };

  const load = async (figure) => {
    say(figure, "The chart is loading.");
    figure.setAttribute("aria-busy", "true");
    try {
      drawing ??= script(document.body.dataset.charts);
      const [answer] = await Promise.all([fetch(figure.dataset.src), drawing]);
      if (answer.status === 401) {
        const run = () => (window.parent === window ? location.reload() : leave(window.parent.location.href));
        say(figure, "You are no longer logged in to Airflow.", {name: "Log in", run});
        return;
      }
      const content = await answer.json();
      if (!answer.ok) throw new Error(content.detail ?? `the server answered ${answer.status}`);
      draw(figure, content);
    } catch (error) {
      drawing = window.drawCharts ? drawing : null;
      say(figure, `The chart could not be loaded: ${error.message}`, {name: "Try again", run: () => load(figure)});
    } finally {
      figure.removeAttribute("aria-busy");
    }
  };

  const draw = (figure, {title, ...specification}) => {
    const caption = figure.querySelector("figcaption");
    if (title) {
      const small = document.createElement("small");
      small.textContent = words(title.subtitle ?? "");
      const of = figure.dataset.of ? `${figure.dataset.of}: ` : "";
      caption.replaceChildren(of + words(title.text ?? title), ...(small.textContent ? [small] : []));
    }
    const data = document.createElement("script");
    data.type = "application/json";
    data.textContent = JSON.stringify(specification);
    figure.querySelector(".status").remove();
    figure.append(document.createElement("div"), data);
    figure.className = "chart";
    window.drawCharts();
  };

  // A run has a dozen charts; those further down are fetched when the reader comes near them.
  const near = new IntersectionObserver((entries) => {
    for (const {isIntersecting, target} of entries) {
      if (isIntersecting) {
        near.unobserve(target);
        load(target);
      }
    }
  }, {rootMargin: "400px"});
  document.querySelectorAll("figure.remote").forEach((figure) => near.observe(figure));

  // Only Airflow's API says when a DAG runs next, and only to readers of that DAG.
  const ahead = (due) => {
    const minutes = Math.max(0, Math.round((due - Date.now()) / 60_000));
    if (minutes < 120) return `in ${minutes} min`;
    return minutes < 2880 ? `in ${Math.round(minutes / 60)} h` : `in ${Math.round(minutes / 1440)} days`;
  };

  const planned = (dag) => {
    if (dag.is_stale) return "none planned: Airflow no longer finds the DAG's file";
    if (dag.is_paused) return "none planned: the DAG is paused";
    if (!dag.next_dagrun_run_after) return "none planned: the DAG has no schedule";
    const due = new Date(dag.next_dagrun_run_after);
    return `${ahead(due)} (${due.toISOString().slice(0, 16).replace("T", " ")} UTC)`;
  };

  document.querySelectorAll("[data-next-run]").forEach(async (place) => {
    const answer = await fetch(place.dataset.nextRun).catch(() => null);
    if (answer?.ok) place.textContent = planned(await answer.json());
    else if (answer?.status === 404) place.textContent = "none planned: Airflow no longer has this DAG";
  });
})();
