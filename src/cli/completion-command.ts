/** `driftmap completion bash|zsh|fish`: made from the commands themselves, so it cannot lag behind them. */

import { Argument, type Command } from 'commander';
import { Exit } from './exit.ts';
import { print } from './terminal.ts';

export function defineCompletion(program: Command): void {
  program
    .command('completion')
    .summary('print a completion script for your shell')
    .description('Prints a script that completes commands and options.')
    .addArgument(new Argument('<shell>', 'your shell').choices(['bash', 'zsh', 'fish']))
    .addHelpText(
      'after',
      `
Examples:
  source <(driftmap completion bash)
  driftmap completion zsh > "\${fpath[1]}/_driftmap"
  driftmap completion fish > ~/.config/fish/completions/driftmap.fish
`,
    )
    .action(async (shell: 'bash' | 'zsh' | 'fish') => {
      await print(shell === 'fish' ? fishScript(program) : bashScript(program, shell === 'zsh'));
      process.exitCode = Exit.equal;
    });
}

interface Words {
  /** `""`, `scan`, `bitmap show` … */
  readonly path: string;
  readonly words: readonly string[];
}

function wordsOf(command: Command, path = ''): Words[] {
  const options = command.options.flatMap((option) => (option.long ? [option.long] : []));
  const names = command.commands.map((sub) => sub.name());
  const below = command.commands.flatMap((sub) =>
    wordsOf(sub, path === '' ? sub.name() : `${path} ${sub.name()}`),
  );
  return [{ path, words: [...names, ...options, '--help'] }, ...below];
}

/** zsh runs bash's script through its own `bashcompinit`. */
function bashScript(program: Command, zsh: boolean): string {
  const cases = wordsOf(program).map(({ path, words }) => `    '${path}') words='${words.join(' ')}' ;;`);
  const head = zsh ? '#compdef driftmap\nautoload -U +X bashcompinit && bashcompinit\n' : '';
  return `${head}_driftmap() {
  local current="\${COMP_WORDS[COMP_CWORD]}" path='' word words
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$word" in -*) ;; *) [[ -e $word ]] || path="\${path:+$path }$word" ;; esac
  done
  while :; do
    case "$path" in
${cases.join('\n')}
    *' '*) path="\${path% *}"; continue ;;
    *) words='' ;;
    esac
    break
  done
  COMPREPLY=( $(compgen -W "$words" -- "$current") $(compgen -f -- "$current") )
}
complete -o filenames -F _driftmap driftmap
`;
}

function fishScript(program: Command): string {
  const quoted = (text: string) => `'${text.replace(/'/g, "\\'")}'`;
  const lines: string[] = [];
  for (const command of program.commands) {
    const name = command.name();
    lines.push(
      `complete -c driftmap -n __fish_use_subcommand -a ${name} -d ${quoted(command.summary() || command.description())}`,
    );
    const seen = `-n ${quoted(`__fish_seen_subcommand_from ${name}`)}`;
    for (const sub of command.commands) {
      lines.push(`complete -c driftmap ${seen} -a ${sub.name()} -d ${quoted(sub.description())}`);
    }
    for (const option of command.options) {
      if (option.long)
        lines.push(
          `complete -c driftmap ${seen} -l ${option.long.slice(2)} -d ${quoted(option.description)}`,
        );
    }
  }
  return `${lines.join('\n')}\n`;
}
