{
  "targets": [
    {
      "target_name": "isr_dpo",
      "type": "none",
      "actions": [
        {
          "action_name": "cmake",
          "inputs": ["CMakeLists.txt"],
          "outputs": ["build/Release/isr_dpo.node"],
          "action": ["node", "cmake/build.cjs"]
        }
      ]
    }
  ]
}
