"""What gradio's page lacks for keyboards and screen readers, as a script that the page runs. Knows no component.

Gradio numbers each radio's `name` anew whenever it draws it, so that no two belong together and arrow keys move
nothing; its groups have a heading and no name, and a text box with a copy button is not the one its label names.
"""

SCRIPT = """() => {
  let numGroups = 0;
  const heading = (part) => part?.querySelector("[data-testid=block-info]")?.textContent.trim();
  const mend = () => {
    for (const group of document.querySelectorAll("fieldset")) {
      const name = heading(group);
      if (name && group.ariaLabel !== name) group.ariaLabel = name;
      group.dataset.group ||= `group-${++numGroups}`;
      for (const radio of group.querySelectorAll("input[type=radio]"))
        if (radio.name !== group.dataset.group) radio.name = group.dataset.group;
    }
    for (const field of document.querySelectorAll(".block textarea")) {
      const name = field.labels.length || field.ariaLabel ? "" : heading(field.closest(".block"));
      if (name) field.ariaLabel = name;
    }
  };
  const watched = { childList: true, subtree: true, attributes: true, attributeFilter: ["name"] };
  new MutationObserver(mend).observe(document.body, watched);
  mend();
}"""
